#pragma once
// Tokens and their ids.

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace adjoint::data {

using TokenCounts = std::map<std::string, int64_t, std::less<>>;

struct VocabularyOptions {
  int64_t min_count = 1;
  int64_t max_size = 0;                       ///< special tokens included; 0: no limit
  std::vector<std::string> extra_specials{};  ///< after the four, e.g. "<s>", "</s>"
};

/// Ids are dense from 0. The file form, vocab.txt, has one token a line, id = line number from 0, first `[PAD]`,
/// `[UNK]`,
/// `[CLS]`, `[SEP]` as in Hugging Face's BERT files.
class Vocabulary {
 public:
  /// The most frequent tokens first, equal counts in byte order.
  static Vocabulary build(const TokenCounts& counts, const VocabularyOptions& options = {});

  /// A vocab.txt. A line may also be `token<TAB>id`, in any order, if all lines are.
  /// Throws E-VOC-001 (a special token is missing), E-VOC-002 (ids not 0 … n-1, each once), E-VOC-003 (a token twice or
  /// empty), E-DATA-005 (not UTF-8), E-DATA-007 (a line above 64 KiB).
  static Vocabulary read(const std::string& path);

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  bool contains(std::string_view token) const { return id_.contains(token); }
  int32_t pad_id() const { return pad_; }
  int32_t unknown_id() const { return unknown_; }
  /// `unknown_id()` for a token that is not here.
  int32_t id(std::string_view token) const;
  /// Throws E-VOC-002 for an id outside 0 … size()-1.
  const std::string& token(int64_t id) const;
  std::vector<int32_t> encode(std::span<const std::string> tokens) const;

  /// The contents of vocab.txt.
  std::string text() const;
  /// SHA-256 of text(); two vocabularies with one fingerprint give the same ids.
  std::string fingerprint() const;

 private:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };

  Vocabulary(std::vector<std::string> tokens, const std::string& place);

  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> id_;
  int32_t pad_ = 0, unknown_ = 1;
};

}  // namespace adjoint::data

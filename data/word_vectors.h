#pragma once
// Word vectors from GloVe text files, as the rows of an embedding table.

#include <cstdint>
#include <string>
#include <vector>

#include "data/vocabulary.h"

namespace adjoint::data {

/// What a token gets that the file does not have. random: drawn from N(0, sigma) by the seed, for rows that training
/// will change. zero: for rows that stay as they are, where a random one would only be noise.
enum class MissingRows { random, zero };

struct WordVectors {
  int64_t width = 0;
  std::vector<float> values;         // [vocabulary size, width]
  std::vector<std::string> missing;  // tokens of the vocabulary that the file does not have, special ones left out
  int64_t found = 0;
  double sigma = 0;  // standard deviation of all numbers found

  /// Share of the vocabulary's tokens that were found, special ones left out.
  double coverage() const;
};

/// The rows for `vocabulary` from a file with a token and `width` numbers a line, plain or gzip; a token may hold
/// spaces, the vector is the last `width` fields. Width 0: as many as the first line has. Of a token that comes twice
/// the first counts. The row of [PAD] is zero. Throws E-GLOVE-001 (numbers a line), E-GLOVE-002 (a number), E-DATA-001
/// (no line), and what TextSource throws.
WordVectors read_word_vectors(const std::string& path, const Vocabulary& vocabulary, int64_t width = 0,
                              MissingRows missing = MissingRows::random, uint64_t seed = 1);

}  // namespace adjoint::data

// Reading checkpoints: limits, messages, notes and values.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <limits>

#include "engine/safetensors.h"
#include "engine/utf8.h"
#include "kernels/base/error.h"
#include "tests/engine/safetensors_images.h"

namespace adjoint {
namespace {

using test::entry;
using test::image;
using test::w;
using ::testing::ContainsRegex;

TEST(SafetensorsReader, Knows_every_type_of_the_format) {
  const std::pair<const char*, int> rows[] = {
      {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
      {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
      {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
      {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};
  int engine_types = 0;
  for (const auto& [spelling, bits] : rows) {
    const std::string bytes = w(spelling, "8", fmt::format("0,{}", bits), static_cast<std::size_t>(bits));
    const std::string_view text = std::string_view(bytes).substr(8, bytes.size() - 8 - static_cast<std::size_t>(bits));
    const auto header = parse_safetensors_header("case", text, static_cast<std::uint64_t>(bits));
    ASSERT_EQ(header.tensors.size(), 1u);
    EXPECT_EQ(name(header.tensors[0].dtype), spelling);
    const auto dtype = engine_dtype(header.tensors[0].dtype);
    if (dtype) {
      ++engine_types;
      EXPECT_EQ(file_dtype(*dtype), header.tensors[0].dtype);
      EXPECT_EQ(size_of(*dtype) * 8, static_cast<std::size_t>(bits));
    }
  }
  EXPECT_EQ(engine_types, 5);
}

TEST(SafetensorsReader, Stops_at_a_million_tensors) {
  std::string text = "{";
  for (int i = 0; i < 1'000'001; ++i) {
    text += fmt::format("{}\"{:x}\":{{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}", i == 0 ? "" : ",", i);
  }
  text += "}";
  try {
    parse_safetensors_header("F", text, 0);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "E-CKPT-018");
    EXPECT_THAT(error.what(), ContainsRegex("tensors.*limit 1000000"));
  }
}

TEST(SafetensorsReader, Opens_regular_files_only) {
  const test::TemporaryDirectory directory;
  const std::string fifo = directory.file("fifo");
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  for (const std::string& path : {directory.path(), fifo, std::string("/dev/null")}) {
    try {
      const SafetensorsFile file(path);
      ADD_FAILURE() << "opened " << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), "E-IO-003");
      EXPECT_EQ(error.exit(), Exit::io);
      EXPECT_THAT(error.what(), ContainsRegex("not a regular file"));
    }
  }
  try {
    const SafetensorsFile file(directory.file("absent"));
    ADD_FAILURE() << "opened an absent file";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "E-IO-001");
    EXPECT_THAT(error.what(), ContainsRegex("No such file or directory"));
  }
}

TEST(SafetensorsReader, Shows_hostile_names_harmlessly) {
  const std::string name = "\\u001b]0;x\\u0007\\u202e" + std::string(3000, 'n');
  const std::string bytes = image("{" + entry(name, "F33", "1", "0,4") + "}", 4);
  try {
    parse_safetensors_header("F", std::string_view(bytes).substr(8, bytes.size() - 12), 4);
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ContainsRegex("\\\\x1b]0;x\\\\x07\\\\xe2\\\\x80\\\\xae"));
    EXPECT_LE(error.line().size(), 400u);
  }
}

TEST(SafetensorsReader, Keeps_messages_short_whatever_the_names) {
  const std::string place = "/a/long/path" + std::string(300, '/') + "model.safetensors";
  const std::string hostile = [] {
    std::string text;
    for (int i = 0; i < 500; ++i) text += "\\u0001";
    return text;
  }();
  const std::string huge = "18446744073709551615";
  std::string shape = huge;
  for (int i = 1; i < 8; ++i) shape += "," + huge;
  const std::string texts[] = {
      "{" + entry(hostile, hostile, "1", "0,4") + "}",
      "{" + entry(hostile, "F8_E4M3FNUZ", shape, "0,4") + "}",
      "{" + entry(hostile, "F8_E4M3FNUZ", "1", huge + "," + huge) + "}",
      "{" + entry(hostile, "F8_E4M3FNUZ", "281474976710655", "0," + huge) + "}",
      "{" + entry(hostile, "F8_E4M3FNUZ", "1", "0,1") + "," + entry(hostile + "b", "U8", "1", "0,1") + "}",
      "{\"" + hostile + "\":{\"" + hostile + "\":1,\"" + hostile + "\":1}}",
      "{\"" + hostile + "\":{\"shape\":\"" + hostile + "\"}}",
      "{\"__metadata__\":{\"" + hostile + "\":" + huge + huge + huge + huge + "}}",
  };
  for (const std::string& text : texts) {
    try {
      parse_safetensors_header(printable(place), text, 1);
      ADD_FAILURE() << "accepted " << text;
    } catch (const Error& error) {
      EXPECT_LE(("adjoint: " + error.line()).size(), 400u) << error.line();
    }
  }
}

TEST(SafetensorsReader, Adds_the_callers_hint_to_what_is_wrong_with_a_file) {
  const test::TemporaryDirectory directory;
  const std::string path = directory.file("cut.safetensors");
  test::save(path, w("F32", "1", "0,4", 3));
  try {
    const SafetensorsFile file(path, "newest intact checkpoint: step-00000400");
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "E-CKPT-013");
    EXPECT_THAT(error.what(), ContainsRegex("truncated.*newest intact checkpoint: step-00000400"));
  }
}

template <class T>
void expect_nonfinite(FileDType dtype, std::vector<T> values, const char* pattern) {
  const TensorInfo tensor{.name = "w", .dtype = dtype, .shape = {values.size()}};
  try {
    require_finite("F", tensor, std::as_bytes(std::span(values)));
    EXPECT_EQ(pattern, nullptr) << name(dtype);
  } catch (const Error& error) {
    ASSERT_NE(pattern, nullptr) << error.what();
    EXPECT_EQ(error.code(), "E-CKPT-022");
    EXPECT_EQ(error.exit(), Exit::data);
    EXPECT_THAT(error.what(), ContainsRegex(pattern));
  }
}

TEST(SafetensorsReader, Finds_the_first_value_that_is_not_finite) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double inf = std::numeric_limits<double>::infinity();
  std::vector<double> many(5000, 1e308);
  expect_nonfinite(FileDType::f64, many, nullptr);
  many[4321] = nan;
  many[4900] = inf;
  expect_nonfinite(FileDType::f64, many, "\"w\".*index 4321 is nan.*--allow-nonfinite");
  expect_nonfinite<float>(FileDType::f32, {1.f, 3e38f, static_cast<float>(-inf)}, "index 2 is infinite");
  expect_nonfinite<float>(FileDType::f32, {1.f, static_cast<float>(nan)}, "index 1 is nan");
  expect_nonfinite<bf16>(FileDType::bf16, {bf16(3e38f), bf16(static_cast<float>(nan))}, "index 1 is nan");
  expect_nonfinite<bf16>(FileDType::bf16, {bf16(static_cast<float>(inf))}, "index 0 is infinite");
  expect_nonfinite<std::uint16_t>(FileDType::f16, {0x7bff, 0x7c00}, "index 1 is infinite");
  expect_nonfinite<std::uint16_t>(FileDType::f16, {0x7e00}, "index 0 is nan");
  expect_nonfinite<std::uint32_t>(FileDType::i32, {0x7f800000}, nullptr);
}

}  // namespace
}  // namespace adjoint

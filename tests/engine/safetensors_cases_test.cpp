// What the reader accepts and how it rejects: one handcrafted file a line.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/safetensors.h"
#include "kernels/base/error.h"
#include "tests/engine/safetensors_images.h"

namespace adjoint {
namespace {

using test::entry;
using test::image;
using test::image_with_checksum;
using test::image_with_metadata;
using test::w;
using ::testing::ContainsRegex;

struct Rejected {
  const char* name;
  std::string bytes;
  const char* code;
  const char* pattern;
};

struct Accepted {
  const char* name;
  std::string bytes;
  std::size_t tensors;
  const char* note = "no digest, integrity not verified";
};

std::string repeated(std::string_view text, int times) {
  std::string all;
  for (int i = 0; i < times; ++i) all += text;
  return all;
}

std::string a_and_b(std::string_view a_offsets, std::string_view b_offsets, std::size_t payload) {
  return image("{" + entry("a", "F32", "2", a_offsets) + "," + entry("b", "F32", "2", b_offsets) + "}", payload);
}

std::string flat_shape(std::string_view literal) {
  return image(fmt::format(R"({{"w":{{"dtype":"U8","shape":[{}],"data_offsets":[0,2]}}}})", literal), 2);
}

std::vector<Rejected> sizes_and_lengths() {
  const std::string max = test::length_field(std::numeric_limits<std::uint64_t>::max());
  return {
      {"empty file", "", "E-CKPT-001", "0 bytes.*at least 8"},
      {"7 bytes", std::string(7, '\0'), "E-CKPT-001", "7 bytes.*truncated"},
      {"length 2^64-1", max + "{}", "E-CKPT-002", "header length 18446744073709551615.*limit 100000000"},
      {"length just over the limit", test::length_field(100'000'001) + "{}", "E-CKPT-002", "limit 100000000"},
      {"length 1000 of 192", test::length_field(1000) + std::string(192, ' '), "E-CKPT-003",
       "header.*1000.*file has 192"},
      {"length one too long", test::length_field(3) + "{}", "E-CKPT-003", "header length 3 .*file has 2 "},
      {"length 0", test::length_field(0), "E-CKPT-003", "header length 0"},
      {"length 0, payload", test::length_field(0) + "{}", "E-CKPT-003", "header length 0"},
      {"zip", "PK\x03\x04" + std::string(200, 'x'), "E-CKPT-017", "looks like a PyTorch pickle or zip file.*convert"},
      {"pickle, protocol 2", "\x80\x02}q\x01X\x05" + std::string(200, 'x'), "E-CKPT-017",
       "looks like a PyTorch pickle or zip file.*convert"},
      {"zip whose start is a possible length", std::string("PK\0\0\0\0\0\0", 8) + std::string(20'000, 'x'),
       "E-CKPT-017", "looks like a PyTorch pickle or zip file.*convert"},
  };
}

std::vector<Rejected> json() {
  const std::string good = "{" + entry("w", "F32", "1", "0,4") + "}";
  return {
      {"invalid UTF-8", image("{\"w\xff\":1}"), "E-CKPT-004", "byte 11:.*UTF-8"},
      {"overlong UTF-8", image("{\"\xc0\xaf\":1}"), "E-CKPT-004", "byte 10:.*UTF-8"},
      {"surrogate in UTF-8", image("{\"\xed\xa0\x80\":1}"), "E-CKPT-004", "byte 10:.*UTF-8"},
      {"cut UTF-8 at the end", image("{}\xe2\x82"), "E-CKPT-004", "byte 10:.*UTF-8"},
      {"open brace", image("{"), "E-CKPT-005", "JSON.*byte [0-9]+.*unexpected end"},
      {"only spaces", image("    "), "E-CKPT-005", "JSON.*byte [0-9]+.*unexpected end"},
      {"100000 brackets", image(std::string(100'000, '[')), "E-CKPT-005", "nested deeper than 64"},
      {"100000 brackets in a field", image("{\"w\":{\"x\":" + std::string(100'000, '[')), "E-CKPT-005",
       "nested deeper than 64"},
      {"65 nested objects", image("{\"w\":{" + repeated("\"x\":{", 63) + repeated("}", 65)), "E-CKPT-005",
       "nested deeper than 64"},
      {"byte order mark", image("\xef\xbb\xbf{}"), "E-CKPT-005", "byte 8:"},
      {"NUL after the object", image(std::string("{}\0", 3)), "E-CKPT-005", "byte 10:"},
      {"NUL and garbage", image(std::string("{}\0garbage", 10)), "E-CKPT-005", "byte 10:"},
      {"NUL in a name", image(std::string("{\"a\0b\":{}}", 10)), "E-CKPT-005", "byte 11:"},
      {"text after the object", image("{} x"), "E-CKPT-005", "JSON.*byte 11"},
      {"second object", image("{}{}"), "E-CKPT-005", "JSON.*byte 10"},
      {"array", image("[]"), "E-CKPT-005", "header is an array.*expected an object"},
      {"array of arrays", image("[[[]],{}]"), "E-CKPT-005", "header is an array.*expected an object"},
      {"null", image("null"), "E-CKPT-005", "header is null.*expected an object"},
      {"string", image("\"x\""), "E-CKPT-005", "header is \"x\".*expected an object"},
      {"number", image("17"), "E-CKPT-005", "header is 17.*expected an object"},
      {"trailing comma", image("{" + entry("w", "F32", "1", "0,4") + ",}", 4), "E-CKPT-005", "JSON.*byte [0-9]+"},
      {"comment", image("{/**/}"), "E-CKPT-005", "JSON.*byte 9"},
      {"single quotes", image("{'w':1}"), "E-CKPT-005", "JSON.*byte 9"},
      {"control character in a name", image("{\"a\nb\":{}}"), "E-CKPT-005", "JSON at byte 11:.*control character"},
      {"lone surrogate escape", image("{\"\\ud800\":{}}"), "E-CKPT-005", "JSON.*surrogate"},
      {"unknown escape", image("{\"\\x61\":{}}"), "E-CKPT-005", "JSON.*byte [0-9]+"},
      {"NaN literal", image(R"({"w":{"x":NaN}})"), "E-CKPT-005", "JSON.*byte [0-9]+"},
      {"header cut by its length", test::length_field(good.size() - 1) + good + std::string(4, '\0'), "E-CKPT-005",
       "unexpected end"},
      {"entry is an array", image(R"({"w":[]})"), "E-CKPT-005", "entry \"w\" is an array.*expected an object"},
      {"entry is a number", image(R"({"w":1})"), "E-CKPT-005", "entry \"w\" is 1; expected an object"},
      {"entry is null", image(R"({"w":null})"), "E-CKPT-005", "entry \"w\" is null.*expected an object"},
  };
}

std::vector<Rejected> duplicates() {
  const std::string scalar = R"("w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  return {
      {"same name twice", image("{" + scalar + "," + scalar + "}", 4), "E-CKPT-006", "duplicate.*\"w\""},
      {"same name, other place", image("{" + scalar + "," + entry("w", "F32", "1", "4,8") + "}", 8), "E-CKPT-006",
       "duplicate.*\"w\""},
      {"same name, other dtype and far away",
       image("{" + scalar + "," + entry("x", "F32", "1", "4,8") + "," + entry("w", "U8", "4", "8,12") + "}", 12),
       "E-CKPT-006", "duplicate.*\"w\""},
      {"same name by an escape", image("{" + scalar + "," + entry("\\u0077", "F32", "1", "4,8") + "}", 8), "E-CKPT-006",
       "duplicate.*\"w\""},
      {"dtype twice", image(R"({"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4), "E-CKPT-006",
       "\"w\".*duplicate field.*dtype"},
      {"shape twice", image(R"({"w":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})", 4), "E-CKPT-006",
       "duplicate field.*shape"},
      {"offsets twice", image(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"data_offsets":[0,4]}})", 4),
       "E-CKPT-006", "duplicate field.*data_offsets"},
      {"unknown field twice", image(R"({"w":{"dtype":"F32","x":1,"x":2,"shape":[1],"data_offsets":[0,4]}})", 4),
       "E-CKPT-006", "duplicate field.*\"x\""},
      {"key twice inside an unknown field",
       image(R"({"w":{"dtype":"F32","x":[{"y":{"z":1,"z":2}}],"shape":[1],"data_offsets":[0,4]}})", 4), "E-CKPT-006",
       "duplicate key \"z\""},
      {"metadata twice", image("{\"__metadata__\":{},\"__metadata__\":{}," + scalar + "}", 4), "E-CKPT-006",
       "duplicate \"__metadata__\""},
      {"metadata null, then an object", image("{\"__metadata__\":null,\"__metadata__\":{}," + scalar + "}", 4),
       "E-CKPT-006", "duplicate \"__metadata__\""},
      {"metadata key twice", image_with_metadata(R"({"a":"1","a":"1"})"), "E-CKPT-006",
       "__metadata__.*duplicate.*\"a\""},
  };
}

std::vector<Rejected> entries() {
  const std::string beyond = "281474976710656";  // 2^48
  return {
      {"dtype F33", w("F33", "1", "0,4", 4), "E-CKPT-007", "\"w\".*dtype \"F33\".*F32"},
      {"dtype f32", w("f32", "1", "0,4", 4), "E-CKPT-007", "dtype \"f32\""},
      {"dtype empty", w("", "1", "0,4", 4), "E-CKPT-007", "dtype \"\""},
      {"dtype is a number", image(R"({"w":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", 4), "E-CKPT-007",
       "\"w\".*dtype is 32.*F32"},
      {"dtype is an array", image(R"({"w":{"dtype":["F32"],"shape":[1],"data_offsets":[0,4]}})", 4), "E-CKPT-007",
       "dtype is an array"},
      {"dtype is an object", image(R"({"w":{"dtype":{},"shape":[1],"data_offsets":[0,4]}})", 4), "E-CKPT-007",
       "dtype is an object"},
      {"dtype missing", image(R"({"w":{"shape":[1],"data_offsets":[0,4]}})", 4), "E-CKPT-007", "\"w\".*dtype.*missing"},
      {"shape missing", image(R"({"w":{"dtype":"F32","data_offsets":[0,4]}})", 4), "E-CKPT-009",
       "\"w\".*shape.*missing"},
      {"offsets missing", image(R"({"w":{"dtype":"F32","shape":[1]}})", 4), "E-CKPT-009",
       "\"w\".*data_offsets.*missing"},
      {"empty entry", image(R"({"w":{}})"), "E-CKPT-007", "\"w\".*dtype.*missing"},
      {"product overflows", w("F32", "2,9223372036854775808", "0,4", 4), "E-CKPT-008", "\"w\".*shape.*overflow"},
      {"product wraps to 0", w("F32", "65536,65536,65536,65536", "0,0", 0), "E-CKPT-008", "overflow"},
      {"bytes wrap though the product fits", w("F64", "268435456,268435456,32", "0,0", 0), "E-CKPT-008", "overflow"},
      {"zero hides an overflow", w("F32", "0,18446744073709551615,18446744073709551615", "0,0", 0), "E-CKPT-008",
       "overflow"},
      {"zero hides a product", w("F32", "0,65536,65536,65536,65536", "0,0", 0), "E-CKPT-008", "overflow"},
      {"extent 2^48", w("U8", "0," + beyond, "0,0", 0), "E-CKPT-008", "overflow"},
      {"shape -2", flat_shape("-2"), "E-CKPT-009", "\"w\".*shape.*-2.*non-negative integer"},
      {"shape -0", flat_shape("-0"), "E-CKPT-009", "\"w\".*shape.*non-negative integer"},
      {"shape 2.0", flat_shape("2.0"), "E-CKPT-009", "\"w\".*shape.*2.0.*non-negative integer"},
      {"shape 2e0", flat_shape("2e0"), "E-CKPT-009", "\"w\".*shape.*2e0.*non-negative integer"},
      {"shape \"2\"", flat_shape("\"2\""), "E-CKPT-009", "\"w\".*shape.*\"2\".*non-negative integer"},
      {"shape 02", flat_shape("02"), "E-CKPT-005", "JSON.*byte [0-9]+"},
      {"shape true", flat_shape("true"), "E-CKPT-009", "\"w\".*shape.*non-negative integer"},
      {"shape null inside", flat_shape("null"), "E-CKPT-009", "\"w\".*shape.*non-negative integer"},
      {"shape [[2]]", flat_shape("[2]"), "E-CKPT-009", "\"w\".*shape.*non-negative integer"},
      {"shape [{}]", flat_shape("{}"), "E-CKPT-009", "\"w\".*shape.*non-negative integer"},
      {"shape 2^64", flat_shape("18446744073709551616"), "E-CKPT-009", "\"w\".*shape.*non-negative integer"},
      {"shape is a number", image(R"({"w":{"dtype":"U8","shape":2,"data_offsets":[0,2]}})", 2), "E-CKPT-009",
       "\"w\".*shape.*non-negative integer"},
      {"shape is an object", image(R"({"w":{"dtype":"U8","shape":{},"data_offsets":[0,2]}})", 2), "E-CKPT-009",
       "\"w\".*shape.*non-negative integer"},
      {"rank 9", w("U8", "1,1,1,1,1,1,1,1,1", "0,1", 1), "E-CKPT-018", "\"w\".*rank.*limit 8"},
      {"rank 10000", w("U8", repeated("1,", 9999) + "1", "0,1", 1), "E-CKPT-018", "\"w\".*rank.*limit 8"},
      {"one offset", w("U8", "2", "2", 2), "E-CKPT-009", "\"w\".*data_offsets.*one offset"},
      {"no offset", w("U8", "2", "", 2), "E-CKPT-009", "\"w\".*data_offsets.*no offset"},
      {"three offsets", w("U8", "2", "0,2,2", 2), "E-CKPT-009", "\"w\".*data_offsets.*more than two"},
      {"offset -1", w("U8", "2", "-1,1", 2), "E-CKPT-009", "\"w\".*data_offsets.*-1.*non-negative integer"},
      {"offset 2.0", w("U8", "2", "0,2.0", 2), "E-CKPT-009", "\"w\".*data_offsets.*2.0.*non-negative integer"},
      {"offset in a string", w("U8", "2", "0,\"2\"", 2), "E-CKPT-009", "\"w\".*data_offsets.*non-negative integer"},
      {"offsets are a number", image(R"({"w":{"dtype":"U8","shape":[2],"data_offsets":2}})", 2), "E-CKPT-009",
       "\"w\".*data_offsets.*non-negative integer"},
      {"offsets in an object", image(R"({"w":{"dtype":"U8","shape":[2],"data_offsets":{"begin":0}}})", 2), "E-CKPT-009",
       "\"w\".*data_offsets.*non-negative integer"},
      {"offsets too few bytes", w("F32", "4", "0,4", 4), "E-CKPT-010", "\"w\".*16 bytes.*offsets.*4"},
      {"offsets too many bytes", w("F32", "1", "0,8", 8), "E-CKPT-010", "\"w\".*4 bytes.*offsets.*8"},
      {"scalar of no bytes", w("F32", "", "0,0", 0), "E-CKPT-010", "\"w\".*4 bytes.*offsets.*0"},
      {"reversed offsets", w("F32", "1", "4,0", 4), "E-CKPT-010", "\"w\".*\\[4,0\\].*before"},
      {"half a byte", w("F4", "3", "0,1", 1), "E-CKPT-010", "\"w\".*12 bits.*whole bytes"},
      {"name of 64 KiB and one", image("{" + entry(std::string(65'537, 'n'), "U8", "1", "0,1") + "}", 1), "E-CKPT-018",
       "name.*65537 bytes.*limit 65536"},
      {"1025 unknown fields",
       image(
           [] {
             std::string text = "{\"w\":{";
             for (int i = 0; i < 1025; ++i) text += fmt::format("\"f{}\":0,", i);
             return text + "\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
           }(),
           1),
       "E-CKPT-018", "\"w\".*unknown fields.*limit 1024"},
  };
}

std::vector<Rejected> layout() {
  return {
      {"same bytes twice", a_and_b("0,8", "0,8", 8), "E-CKPT-011", "\"b\".*overlap.*\"a\""},
      {"overlap by half", a_and_b("0,8", "4,12", 12), "E-CKPT-011", "\"b\".*overlap.*\"a\""},
      {"overlap, header unordered", a_and_b("4,12", "0,8", 12), "E-CKPT-011", "\"a\".*overlap.*\"b\""},
      {"hole in the middle", a_and_b("0,8", "12,20", 20), "E-CKPT-011", "gap of 4 bytes before.*\"b\""},
      {"hole at the start", w("F32", "1", "4,8", 8), "E-CKPT-011", "gap of 4 bytes before.*\"w\""},
      {"empty tensor beyond the end", image("{" + entry("w", "F32", "0", "8,8") + "}", 8), "E-CKPT-011",
       "gap of 8 bytes before"},
      {"empty tensor inside another",
       image("{" + entry("a", "F32", "2", "0,8") + "," + entry("z", "F32", "0", "4,4") + "}", 8), "E-CKPT-011",
       "\"z\".*overlap.*\"a\""},
      {"trailing byte", w("F32", "1", "0,4", 5), "E-CKPT-012", "1 trailing bytes"},
      {"only trailing bytes", image("{}", 9), "E-CKPT-012", "9 trailing bytes"},
      {"payload one byte short", w("F32", "1", "0,4", 3), "E-CKPT-013", "truncated.*expected 4 .*found 3"},
      {"no payload", a_and_b("0,8", "8,16", 0), "E-CKPT-013", "truncated.*expected 16 .*found 0"},
      {"256 TiB in a small file", w("U8", "281474976710655", "0,281474976710655", 3), "E-CKPT-013",
       "truncated.*expected 281474976710655.*found 3"},
  };
}

std::vector<Rejected> metadata() {
  const std::string crc = R"("adjoint.crc32c.header":"00000000","adjoint.crc32c.tensors":"48674bc7")";
  return {
      {"value is a number", image_with_metadata(R"({"step":1})"), "E-CKPT-016", "__metadata__.*\"step\" is 1;.*string"},
      {"value is null", image_with_metadata(R"({"step":null})"), "E-CKPT-016", "__metadata__.*string"},
      {"value is an object", image_with_metadata(R"({"a":{}})"), "E-CKPT-016", "__metadata__.*string"},
      {"value is an array", image_with_metadata(R"({"a":["b"]})"), "E-CKPT-016", "__metadata__.*string"},
      {"metadata is an array", image_with_metadata("[]"), "E-CKPT-016", "__metadata__.*string"},
      {"metadata is a string", image_with_metadata("\"x\""), "E-CKPT-016", "__metadata__.*string"},
      {"metadata is true", image_with_metadata("true"), "E-CKPT-016", "__metadata__ is true.*string"},
      {"metadata is the text null", image_with_metadata("\"null\""), "E-CKPT-016", "__metadata__.*string"},
      {"metadata is a tensor", image("{" + entry("__metadata__", "F32", "1", "0,4") + "}", 4), "E-CKPT-016",
       "__metadata__.*string"},
      {"65537 metadata keys", image_with_metadata([] {
         std::string text = "{\"k\":\"\"";
         for (int i = 0; i < 65'536; ++i) text += fmt::format(",\"{}\":\"\"", i);
         return text + "}";
       }()),
       "E-CKPT-018", "keys.*limit 65536"},
      {"own key, no digest", image_with_metadata(R"({"adjoint.step":"100"})"), "E-CKPT-015", "digest missing"},
      {"own key by an escape", image_with_metadata(R"({"\u0061djoint.step":"100"})"), "E-CKPT-015", "digest missing"},
      {"only the header's digest", image_with_checksum(R"({"adjoint.crc32c.header":"00000000"})"), "E-CKPT-015",
       "digest missing.*tensors"},
      {"only the tensors' digests", image_with_metadata(R"({"adjoint.crc32c.tensors":"48674bc7"})"), "E-CKPT-015",
       "digest missing.*header"},
      {"wrong header digest", image_with_metadata("{" + crc + ",\"adjoint.version\":\"1\"}"), "E-CKPT-015",
       "digest of the header"},
      {"short header digest",
       image_with_metadata(R"({"adjoint.crc32c.header":"0000000","adjoint.crc32c.tensors":"48674bc7"})"), "E-CKPT-015",
       "8 hexadecimal digits"},
      {"header digest twice in the text",
       image_with_metadata("{" + crc + R"(},"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0],)" +
                           R"("adjoint.crc32c.header":"00000000"})"),
       "E-CKPT-015", "8 hexadecimal digits"},
      {"too few tensor digests",
       image_with_checksum(R"({"adjoint.crc32c.header":"00000000","adjoint.crc32c.tensors":"","adjoint.version":"1"})"),
       "E-CKPT-015", "each of 1 tensors"},
      {"too many tensor digests",
       image_with_checksum(R"({"adjoint.crc32c.header":"00000000",)"
                           R"("adjoint.crc32c.tensors":"48674bc748674bc7","adjoint.version":"1"})"),
       "E-CKPT-015", "each of 1 tensors"},
      {"upper-case tensor digests",
       image_with_checksum(R"({"adjoint.crc32c.header":"00000000",)"
                           R"("adjoint.crc32c.tensors":"48674BC7","adjoint.version":"1"})"),
       "E-CKPT-015", "each of 1 tensors"},
      {"version 9", image_with_checksum("{" + crc + ",\"adjoint.version\":\"9\"}"), "E-CKPT-020",
       "version 9.*supports up to"},
      {"version 9 without digests", image_with_metadata(R"({"adjoint.version":"9"})"), "E-CKPT-020",
       "version 9.*supports up to"},
      {"no version", image_with_checksum("{" + crc + "}"), "E-CKPT-020", "supports up to"},
      {"version x", image_with_checksum("{" + crc + ",\"adjoint.version\":\"1x\"}"), "E-CKPT-020", "supports up to"},
  };
}

std::vector<Accepted> accepted() {
  const std::string header = "{" + entry("w", "F32", "1", "0,4") + "}";
  return {
      {"empty object", image("{}"), 0},
      {"one tensor", image(header, 4), 1},
      {"trailing spaces", image(header + "   ", 4), 1},
      {"trailing JSON whitespace", image(header + "\n\t\r ", 4), 1},
      {"leading space", image(" " + header, 4), 1, "whitespace before"},
      {"leading newline", image("\n" + header, 4), 1, "whitespace before"},
      {"unknown field", image(R"({"w":{"dtype":"U8","shape":[1],"x":{"y":[1,{}]},"data_offsets":[0,1]}})", 1), 1,
       "\"w\".*unknown field \"x\""},
      {"number out of range in an unknown field",
       image(R"({"w":{"dtype":"U8","shape":[],"data_offsets":[0,1],"x":1e999}})", 1), 1, "unknown field"},
      {"metadata null", image_with_metadata("null"), 1},
      {"metadata empty", image_with_metadata("{}"), 1},
      {"metadata strings", image_with_metadata(R"({"format":"pt","adjoint":"not a prefix"})"), 1},
      {"scalar", w("F64", "", "0,8", 8), 1},
      {"64 levels",
       image("{\"w\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":" + std::string(62, '[') +
                 std::string(62, ']') + "}}",
             1),
       1, "unknown field"},
      {"rank 8", w("U8", "1,1,1,1,1,1,1,1", "0,1", 1), 1},
      {"sub-byte type", w("F6_E2M3", "4", "0,3", 3), 1},
      {"largest extent beside a zero", w("U8", "281474976710655,0", "0,0", 0), 1},
      {"empty tensors at every place",
       image("{" + entry("a", "F32", "0", "0,0") + "," + entry("b", "F32", "1", "0,4") + "," +
                 entry("c", "U8", "2,0", "4,4") + "," + entry("d", "U8", "1", "4,5") + "," +
                 entry("e", "F64", "0", "5,5") + "}",
             5),
       5},
      {"unordered header", a_and_b("8,16", "0,8", 16), 2},
      {"unaligned buffer", image("{" + entry("a", "U8", "1", "0,1") + "," + entry("b", "F64", "1", "1,9") + "} ", 9),
       2},
      {"empty name", image("{" + entry("", "U8", "1", "0,1") + "}", 1), 1},
      {"name of 64 KiB", image("{" + entry(std::string(65'536, 'n'), "U8", "1", "0,1") + "}", 1), 1},
      {"fields in another order", image(R"({"w":{"data_offsets":[0,2],"shape":[2],"dtype":"U8"}})", 2), 1},
      {"names equal but for case and accents",
       image("{" + entry("w", "U8", "1", "0,1") + "," + entry("W", "U8", "1", "1,2") + "," +
                 entry("\xc3\xa9", "U8", "1", "2,3") + "," + entry("e\xcc\x81", "U8", "1", "3,4") + "}",
             4),
       4},
      {"length that starts like a pickle", image(header + std::string(0x280 - header.size(), ' '), 4), 1},
      {"own keys with digests",
       image_with_checksum(R"({"adjoint.crc32c.header":"00000000",)"
                           R"("adjoint.crc32c.tensors":"48674bc7","adjoint.version":"1"})"),
       1, nullptr},
  };
}

TEST(SafetensorsReader, Rejects_each_handcrafted_file_with_its_code_and_reason) {
  const test::TemporaryDirectory directory;
  const std::string path = directory.file("case.safetensors");
  std::size_t count = 0;
  for (const auto& group : {sizes_and_lengths(), json(), duplicates(), entries(), layout(), metadata()}) {
    for (const Rejected& c : group) {
      SCOPED_TRACE(c.name);
      test::save(path, c.bytes);
      ++count;
      try {
        const SafetensorsFile file(path);
        ADD_FAILURE() << "accepted; expected " << c.code;
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), c.code) << error.what();
        EXPECT_EQ(error.exit(), Exit::data);
        EXPECT_THAT(error.what(), ContainsRegex(c.pattern));
        EXPECT_THAT(error.what(), ::testing::StartsWith(path + ": ")) << "the message must name the file";
        EXPECT_LE(error.line().size(), 400u) << error.what();
        EXPECT_EQ(std::string_view(error.what()).find_first_of("\n\r\x1b"), std::string_view::npos);
      }
    }
  }
  EXPECT_GE(count, 60u);
}

TEST(SafetensorsReader, Accepts_what_the_format_allows_and_notes_what_is_odd) {
  const test::TemporaryDirectory directory;
  const std::string path = directory.file("case.safetensors");
  for (const Accepted& c : accepted()) {
    SCOPED_TRACE(c.name);
    test::save(path, c.bytes);
    try {
      const SafetensorsFile file(path);
      EXPECT_EQ(file.header().tensors.size(), c.tensors);
      EXPECT_EQ(file.size(), c.bytes.size());
      EXPECT_EQ(file.header().has_checksums, c.note == nullptr);
      if (c.note) {
        EXPECT_THAT(file.header().notes, ::testing::Contains(ContainsRegex(c.note)));
      } else {
        EXPECT_THAT(file.header().notes, ::testing::IsEmpty());
      }
      file.verify_checksums();
    } catch (const Error& error) {
      ADD_FAILURE() << error.line();
    }
  }
}

}  // namespace
}  // namespace adjoint

// Manifests caught half-written, and damaged ones. Whatever the bytes: an answer, in bounded time,
// and a volume only where the document holds one.
#include <gtest/gtest.h>

#include <chrono>
#include <random>

#include "common/api/decode.h"
#include "common/api/test_manifests.h"

namespace ublk_operator {
namespace {

using testing_manifests::complete;

// What holds for every answer.
void expect_consistent(const DecodedManifest& manifest, const std::string& text) {
  for (const auto& document : manifest.documents) {
    ASSERT_NE(document.volume.has_value(), !document.problems.empty()) << text;
    if (document.volume) {
      ASSERT_EQ(document.name, document.volume->metadata.name) << text;
      ASSERT_GT(document.volume->spec.size_bytes, 0U) << text;
    }
  }
  ASSERT_TRUE(!manifest.documents.empty() || !manifest.problems.empty()) << text;
}

// Cut off within or behind a value, the text before may be right in itself; cut off anywhere else
// it must not pass for a shorter manifest.
TEST(HalfWrittenTest, CutOffBehindAKeyItIsNeverAVolume) {
  const std::string text = complete();
  for (size_t length = 0; length <= text.size(); ++length) {
    const std::string part = text.substr(0, length);
    const DecodedManifest manifest = decode_manifest(part, "vol.yaml");
    expect_consistent(manifest, part);

    const size_t line_begin = part.rfind('\n') + 1;  // npos + 1 is 0
    const std::string last_line = part.substr(line_begin);
    const bool within_value = last_line.find(": ") != std::string::npos && last_line.back() != ' ';
    if (last_line.find_first_not_of(' ') != std::string::npos && !within_value) {
      EXPECT_FALSE(manifest.ok()) << part;
    }
    const bool behind_object = length > 1 && last_line.empty() && part[length - 2] == ':';
    if (behind_object) {
      EXPECT_FALSE(manifest.ok()) << part;
    }
  }
}

TEST(HalfWrittenTest, ACutOffFlagIsNotItsDefault) {
  // `running` defaults to true: "running:" that lost its "false" would start the device.
  for (const std::string end :
       {"  run", "  running", "  running:", "  running: ", "  running:\n"}) {
    EXPECT_FALSE(decode_manifest(testing_manifests::with_fields(end), "vol.yaml").ok()) << end;
  }
  EXPECT_EQ(
      testing_manifests::problems_of(testing_manifests::with_fields("  running:\n"))[0],
      "vol.yaml:8:3: spec.running: has no value, and the file ends here: is it cut off? Write "
      "null when that is meant");
  EXPECT_TRUE(
      decode_manifest(testing_manifests::with_fields("  running: null\n"), "vol.yaml").ok());
}

TEST(HalfWrittenTest, APartOfTheNameIsNotTheName) {
  const std::string text = complete();
  const size_t name_begin = text.find("pgdata\n");
  for (size_t length = 0; length < name_begin + 7; ++length) {
    const DecodedManifest manifest = decode_manifest(text.substr(0, length), "vol.yaml");
    EXPECT_FALSE(manifest.ok());
    for (const auto& document : manifest.documents) EXPECT_EQ(document.name, "");
  }
}

TEST(HalfWrittenTest, TheNameIsKnownFromWhereItStandsOn) {
  const std::string text = complete();
  const size_t name_end = text.find("pgdata\n") + 7;
  for (size_t length = name_end; length <= text.size(); ++length) {
    const DecodedManifest manifest = decode_manifest(text.substr(0, length), "vol.yaml");
    ASSERT_EQ(manifest.documents.size(), 1U) << text.substr(0, length);
    ASSERT_EQ(manifest.documents[0].name, "pgdata") << text.substr(0, length);
  }
}

// A file of several volumes in the styles that people use.
std::string seed_text() {
  return complete() + "---\n" +
         testing_manifests::with_fields("  # comment\n  device: &d {mode: 0600}\n") +
         "---\n{\"apiVersion\": \"ublk.dev/v1alpha1\", \"kind\": \"UblkVolume\", \"metadata\": "
         "{\"name\": \"j\"}, \"spec\": {\"size\": \"1Gi\", \"backend\": {\"null\": {}}}}\n---\n" +
         "apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\nmetadata:\n  name: k\n  labels: &l\n"
         "    note: >\n      folded\n      text\n    other: 'it''s'\n  annotations: *l\n"
         "spec:\n  size: !!str 2Gi\n  backend:\n    ? file\n    : path: \"\\x61.img\"\n";
}

TEST(MutationTest, DamagedManifestsAreAlwaysAnswered) {
  const std::string seed = seed_text();
  ASSERT_TRUE(decode_manifest(testing_manifests::complete(), "vol.yaml").ok());
  constexpr unsigned number = 20250103;
  std::mt19937 random(number);
  const std::string alphabet = "{}[]:,-?&*!|>'\"%@`#\n\t \\~.0aA\x7f\x01";
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 4000; ++i) {
    std::string text = seed;
    const unsigned edits = 1 + random() % 8;
    for (unsigned edit = 0; edit < edits && !text.empty(); ++edit) {
      const size_t at = random() % text.size();
      const size_t length = 1 + random() % 40;
      switch (random() % 6) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text[at] = static_cast<char>(text[at] ^ (1 << (random() % 8)));
          break;
        case 2:
          text.insert(at, 1, alphabet[random() % alphabet.size()]);
          break;
        case 3:
          text.erase(at, length);
          break;
        case 4:
          text.insert(at, text.substr(random() % text.size(), length));
          break;
        default:
          text.resize(at);
          break;
      }
    }
    expect_consistent(decode_manifest(text, "vol.yaml"), text);
    if (HasFatalFailure()) FAIL() << "seed " << number << ", iteration " << i;
  }
  // Some 50 us each without sanitizers; the bound only has to catch what explodes.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::minutes(3));
}

TEST(MutationTest, FilesMadeToBeSlowAreNot) {
  const auto repeat = [](const std::string& text) {
    std::string all;
    while (all.size() < size_t{1} << 18) all += text;
    return all;
  };
  const auto begin = std::chrono::steady_clock::now();
  for (const char* text : {"[",     "{",           "- ",  "? ", "a: ",    "a:\n",   "a\n",
                           "---\n", "---\na\n",    "&a ", "!",  "%A b\n", "\"a\" ", "?[",
                           "| \n",  "a: &a b\n",   "'",   "#",  " ",      "\n",     "--- >\n x\n",
                           "\\",    "a: {b: c}\n", ": ",  "*a "}) {
    expect_consistent(decode_manifest(repeat(text), "vol.yaml"), text);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::minutes(3));
}

}  // namespace
}  // namespace ublk_operator

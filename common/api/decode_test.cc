// From text to volume: what right manifests mean, and what is said of text that is no YAML.
#include "common/api/decode.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/api/test_manifests.h"
#include "common/base/limits.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;
using testing_manifests::complete;
using testing_manifests::header;
using testing_manifests::problems_of;
using testing_manifests::with_fields;

Volume decoded(const std::string& text) {
  const DecodedManifest manifest = decode_manifest(text, "vol.yaml");
  EXPECT_THAT(problems_of(text), IsEmpty());
  if (manifest.documents.size() != 1 || !manifest.documents[0].volume) return {};
  return *manifest.documents[0].volume;
}

TEST(DecodeTest, ReadsEveryField) {
  Volume expected;
  expected.metadata.name = "pgdata";
  VolumeSpec& spec = expected.spec;
  spec.node_name = "node-1.example";
  spec.size_bytes = uint64_t{10} << 30;
  spec.recovery = {RecoveryMode::queue, 1min, OnDeadline::fail_device, 3, {200ms, 10s}};
  spec.backend = FileBackendSpec{"fast", "db/pgdata.img", Provisioning::thick, true};
  spec.fault_injection.latency = 5ms;
  spec.queues = 4;
  spec.queue_depth = 32;
  spec.max_io_bytes = 1 << 20;
  spec.logical_block_bytes = 4096;
  spec.read_only = true;
  spec.running = false;
  spec.device = {0600, "postgres", "1234"};
  spec.reclaim_policy = ReclaimPolicy::remove;
  EXPECT_EQ(decoded(complete()), expected);
}

TEST(DecodeTest, WhatIsLeftOutOrNullHasItsDefault) {
  Volume expected;
  expected.metadata.name = "pgdata";
  expected.spec.size_bytes = uint64_t{1} << 30;
  EXPECT_EQ(decoded(with_fields("")), expected);
  EXPECT_EQ(decoded(with_fields("  recovery: null\n  queues: ~\n  device:\n  readOnly: null\n")),
            expected);
}

TEST(DecodeTest, JsonIsReadAsTheYamlItIs) {
  const std::string json = R"({"apiVersion": "ublk.dev/v1alpha1", "kind": "UblkVolume",
    "metadata": {"name": "pgdata"},
    "spec": {"size": "1Gi", "backend": {"null": {}}, "queues": 2, "device": {"mode": "0600"}}})";
  const Volume volume = decoded(json);
  EXPECT_EQ(volume.spec.queues, 2U);
  EXPECT_EQ(volume.spec.device.mode, 0600U);
  // Cut off, not even its name is known: what stands in brackets is read as a whole.
  EXPECT_THAT(problems_of(json.substr(0, json.find("\"queues\""))),
              ElementsAre("vol.yaml:1:1: a list or an object as a key; expected a field name (is a "
                          "'}' or ']' missing?)"));
}

TEST(DecodeTest, AliasesStandForWhatTheyName) {
  const Volume volume = decoded(header("pgdata") +
                                "  labels: &labels {app: db}\n  annotations: *labels\n"
                                "spec:\n  size: &size 1Gi\n  maxIOSize: &io 64Ki\n"
                                "  backend: {null: {}}\n");
  EXPECT_EQ(volume.metadata.annotations.at("app"), "db");
}

TEST(DecodeTest, ALineEndOfWindowsAndAByteOrderMarkAreFine) {
  std::string text = "\xef\xbb\xbf" + complete();
  for (size_t at = 0; (at = text.find('\n', at)) != std::string::npos; at += 2) {
    text.replace(at, 1, "\r\n");
  }
  EXPECT_EQ(decoded(text), decoded(complete()));
}

struct SyntaxCase {
  const char* text;  // begins in line 8 of an otherwise right manifest
  const char* problem;
};

class SyntaxTest : public testing::TestWithParam<SyntaxCase> {};

TEST_P(SyntaxTest, IsExplained) {
  const auto problems = problems_of(with_fields(GetParam().text));
  ASSERT_EQ(problems.size(), 2U);
  // The problems of the file come first; the document's own is the cause.
  EXPECT_EQ(problems[1], std::string("vol.yaml:") + GetParam().problem);
}

INSTANTIATE_TEST_SUITE_P(
    Texts, SyntaxTest,
    testing::Values(
        SyntaxCase{"\tqueues: 2\n", "8:1: not valid YAML: a tab in the indentation; use spaces"},
        SyntaxCase{
            "  queues: 2: 3\n",
            "8:12: not valid YAML: a ':' where none can stand: check the indentation and the "
            "quotes"},
        SyntaxCase{"  device: {owner: root\n",
                   "9:1: not valid YAML: a '{' without its '}': is the file cut off?"},
        SyntaxCase{"  device: }\n", "8:11: not valid YAML: a '}' or ']' without its beginning"},
        SyntaxCase{"  device: \"root\n",
                   "8:11: not valid YAML: a quoted text without its end: is the file cut off?"},
        SyntaxCase{"  readOnly\n",
                   "8:3: not valid YAML: a ':' is missing after 'readOnly' (is the file cut off "
                   "here?)"},
        SyntaxCase{"  device: @root\n",
                   "8:11: not valid YAML: a character that cannot begin a value: put the value in "
                   "quotes"},
        SyntaxCase{
            "  ? [a]\n  : b\n",
            "8:5: a list or an object as a key; expected a field name (is a '}' or ']' missing?)"},
        SyntaxCase{"  queues: !nr 2\n", "8:11: the tag '!nr'; expected a value without a tag"},
        SyntaxCase{"  queues: *other\n",
                   "8:11: not valid YAML: the referenced anchor is not defined"}));

TEST(DecodeTest, BytesThatAreNoTextAreNamedByPlace) {
  EXPECT_THAT(problems_of(std::string("a: 1\nb: \0", 9)),
              ElementsAre("vol.yaml:2:4: not text: it holds a NUL byte"));
  // To the parser this one means the end of the file, so that what follows would be lost silently.
  EXPECT_THAT(problems_of(complete() + "\x04---\n" + complete()),
              ElementsAre("vol.yaml:35:1: not text: it holds the control character 4"));
  for (const char* bytes : {"\xff", "\xc0\x80", "\xed\xa0\x80", "\xf5\x80\x80\x80", "\xe2\x82"}) {
    EXPECT_THAT(problems_of(std::string("a: ") + bytes),
                ElementsAre("vol.yaml:1:4: not text: it is not UTF-8"));
  }
  EXPECT_THAT(problems_of(with_fields("  # \xe2\x82\xac \xf0\x9f\x98\x80 \xc3\xa4\n")), IsEmpty());
}

TEST(DecodeTest, AFileThatIsTooLargeIsNotRead) {
  EXPECT_THAT(problems_of(std::string(limits::manifest_bytes_max + 1, '#')),
              ElementsAre("vol.yaml: the file has 4194305 bytes; at most 4194304 are read"));
}

TEST(DecodeTest, NestingIsBounded) {
  const auto nested = [](size_t depth) {
    return std::string(depth, '[') + std::string(depth, ']');
  };
  EXPECT_THAT(problems_of(nested(limits::yaml_depth_max)),
              ElementsAre("vol.yaml:1:1: is a list; expected a UblkVolume: apiVersion, kind, "
                          "metadata and spec"));
  EXPECT_THAT(problems_of(nested(limits::yaml_depth_max + 1)),
              ElementsAre("vol.yaml:1:33: nested deeper than 32"));
  // Block style, and beneath what aliases stand for.
  std::string lists;
  for (int i = 0; i < 40; ++i) lists += "- ";
  EXPECT_THAT(problems_of(lists), ElementsAre("vol.yaml:1:65: nested deeper than 32"));
  EXPECT_THAT(problems_of("a: &a " + nested(31) + "\nb: [*a]\n"),
              ElementsAre("vol.yaml:2:5: nested deeper than 32"));
}

TEST(DecodeTest, AnAliasBombIsStoppedBeforeItExpands) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 20; ++i) {
    bomb += "a" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int j = 0; j < 10; ++j) bomb += (j == 0 ? "*a" : ", *a") + std::to_string(i - 1);
    bomb += "]\n";
  }
  EXPECT_THAT(problems_of(bomb),
              ElementsAre("vol.yaml:5:45: aliases expand to more than 100000 nodes"));
}

TEST(DecodeTest, ManySmallAliasBombsInOneFileAreStoppedToo) {
  std::string file;
  for (int i = 0; i < 30; ++i) {
    file +=
        "---\na: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n"
        "c: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: [*c, *c, *c, *c, *c, *c, *c, *c, *c]\n";
  }
  const DecodedManifest manifest = decode_manifest(file, "vol.yaml");
  ASSERT_EQ(manifest.problems.size(), 1U);
  EXPECT_EQ(manifest.problems[0].message, "aliases expand to more than 100000 nodes");
}

TEST(DecodeTest, AnAliasWithinItselfIsRefused) {
  EXPECT_THAT(problems_of("a: &a [*a]\n"),
              ElementsAre("vol.yaml:1:8: an alias inside of what it stands for"));
}

TEST(DecodeTest, ADocumentHasABoundedNumberOfNodes) {
  std::string flow = "[";
  for (size_t i = 0; i <= limits::yaml_nodes_max; ++i) flow += "x,";
  EXPECT_THAT(problems_of(flow + "]"),
              ElementsAre("vol.yaml:1:200001: more than 100000 nodes in a document"));
  // Brackets that are never closed.
  EXPECT_THAT(problems_of(std::string(limits::manifest_bytes_max, '[')),
              ElementsAre("vol.yaml:1:100001: more than 100000 nodes in a document"));
  std::string block;
  for (size_t i = 0; i <= limits::yaml_nodes_max; ++i) block += "- x\n";
  EXPECT_THAT(problems_of(block),
              ElementsAre("vol.yaml:100000:3: more than 100000 nodes in a document"));
}

TEST(DecodeTest, GarbageHasABoundedNumberOfProblems) {
  std::string fields;
  for (int i = 0; i < 40'000; ++i) fields += "  f" + std::to_string(i) + ": 1\n";
  const auto problems = problems_of(with_fields(fields));
  ASSERT_EQ(problems.size(), 101U);
  EXPECT_EQ(problems.back(), "vol.yaml:108:3: too many problems to list them all");
}

TEST(DecodeTest, DuplicateKeysAreFoundAtEveryLevel) {
  EXPECT_THAT(problems_of(header("a") + "  name: b\nspec:\n  size: 1Gi\n  backend:\n    file:\n"
                                        "      path: x\n      \"path\": y\nspec: {}\n"),
              ElementsAre("vol.yaml:5:3: metadata.name: is set twice; first in line 4",
                          "vol.yaml:11:7: spec.backend.file.path: is set twice; first in line 10",
                          "vol.yaml:12:1: spec: is set twice; first in line 6"));
}

TEST(JsonTest, ProblemsOfTheApiHaveFieldsButNoLines) {
  nlohmann::json json = to_json(decoded(complete()));
  json["spec"]["recovery"]["mode"] = "Reisue";
  json["spec"]["queues"] = -1;
  json["spec"]["device"]["mode"] = 432;  // what 0660 became on its way through a YAML reader
  const auto volume = volume_from_json(json);
  ASSERT_FALSE(volume.ok());
  EXPECT_EQ(
      volume.error().to_string(),
      "EINVAL decode volume pgdata: spec.recovery.mode: unknown value 'Reisue'; expected None, "
      "Queue, Reissue or FailIO (did you mean 'Reissue'?); spec.queues: '-1' is not a whole "
      "number from 1 to 4096; spec.device.mode: '432' is not an octal mode; expected a string "
      "from \"0000\" to \"0777\", such as \"0660\"");
}

TEST(JsonTest, DepthIsBounded) {
  nlohmann::json json = 1;
  for (int i = 0; i < 100; ++i) json = nlohmann::json::array({json});
  EXPECT_EQ(volume_from_json(json).err(), E2BIG);
  EXPECT_EQ(event_from_json(json).err(), E2BIG);
  EXPECT_EQ(volume_from_json(nlohmann::json()).err(), EINVAL);
}

}  // namespace
}  // namespace ublk_operator

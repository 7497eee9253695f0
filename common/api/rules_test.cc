// The messages a user reads when a manifest is wrong: where, which field, what is wrong with it,
// what was expected.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/api/decode.h"
#include "common/api/test_manifests.h"
#include "common/base/strings.h"

namespace ublk_operator {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing_manifests::problems_of;
using testing_manifests::with_fields;
using testing_manifests::with_spec;

// `fields` stand in line 8 of an otherwise right manifest and have one problem.
struct FieldCase {
  const char* fields;
  const char* problem;  // without "vol.yaml:"
};

class FieldTest : public testing::TestWithParam<FieldCase> {};

TEST_P(FieldTest, HasOneProblemAndSaysWhich) {
  EXPECT_THAT(problems_of(with_fields(GetParam().fields)),
              ElementsAre(std::string("vol.yaml:") + GetParam().problem));
}

INSTANTIATE_TEST_SUITE_P(
    Recovery, FieldTest,
    testing::Values(
        FieldCase{"  recovery: {mode: Reisue}",
                  "8:20: spec.recovery.mode: unknown value 'Reisue'; expected None, Queue, Reissue "
                  "or FailIO (did you mean 'Reissue'?)"},
        FieldCase{"  recovery: {mode: failio}",
                  "8:20: spec.recovery.mode: unknown value 'failio'; expected None, Queue, Reissue "
                  "or FailIO (did you mean 'FailIO'?)"},
        FieldCase{"  recovery: {mode: [Queue]}",
                  "8:20: spec.recovery.mode: is a list; expected None, Queue, Reissue or FailIO"},
        FieldCase{"  recovery: Reissue", "8:13: spec.recovery: is a string; expected an object"},
        FieldCase{"  recovery: {onDeadline: FailDevice}",
                  "8:26: spec.recovery.onDeadline: 'FailDevice' needs a spec.recovery.deadline, "
                  "such as 30s"},
        FieldCase{"  recovery: {deadline: 0s}",
                  "8:24: spec.recovery.deadline: is 0; expected a duration such as 30s (leave it "
                  "out for none)"},
        FieldCase{
            "  recovery: {deadline: 30}",
            "8:24: spec.recovery.deadline: '30' has no unit; expected one of h, m, s, ms (did "
            "you mean '30s'?)"},
        FieldCase{"  recovery: {maxRestarts: 0}",
                  "8:27: spec.recovery.maxRestarts: '0' is not a whole number from 1 to 1000000"},
        FieldCase{"  recovery: {backOff: {initial: 40s}}",
                  "8:33: spec.recovery.backOff.initial: initial (40s) is longer than max (30s); "
                  "lower initial or raise max"},
        FieldCase{"  recovery: {backOff: {max: 50ms}}",
                  "8:29: spec.recovery.backOff.max: initial (100ms) is longer than max (50ms); "
                  "lower initial or raise max"},
        FieldCase{"  recovery: {backoff: {max: 50s}}",
                  "8:14: spec.recovery.backoff: unknown field (did you mean 'backOff'?)"}));

INSTANTIATE_TEST_SUITE_P(
    Geometry, FieldTest,
    testing::Values(
        FieldCase{"  queues: 0", "8:11: spec.queues: '0' is not a whole number from 1 to 4096"},
        FieldCase{"  queues: -1", "8:11: spec.queues: '-1' is not a whole number from 1 to 4096"},
        FieldCase{"  queues: 1.5", "8:11: spec.queues: '1.5' is not a whole number from 1 to 4096"},
        FieldCase{"  queues: 0x10",
                  "8:11: spec.queues: '0x10' is not a whole number from 1 to 4096"},
        FieldCase{"  queues: \"2\"",
                  "8:11: spec.queues: is a string; expected a whole number from 1 to 4096, without "
                  "quotes"},
        FieldCase{"  queues: {}",
                  "8:11: spec.queues: is an object; expected a whole number from 1 to 4096"},
        FieldCase{"  queueDepth: 99999999999999999999",
                  "8:15: spec.queueDepth: '99999999999999999999' is not a whole number from 1 to "
                  "4096"},
        FieldCase{"  queueDeph: 64",
                  "8:3: spec.queueDeph: unknown field (did you mean 'queueDepth'?)"},
        FieldCase{"  logicalBlockSize: 520",
                  "8:21: spec.logicalBlockSize: unknown value '520'; expected 512, 1024, 2048 or "
                  "4096"},
        FieldCase{"  maxIOSize: 64Mi",
                  "8:14: spec.maxIOSize: 64Mi is not possible; expected a multiple of 4Ki from 4Ki "
                  "to 32Mi"},
        FieldCase{
            "  maxIOSize: 5000",
            "8:14: spec.maxIOSize: 5k is not possible; expected a multiple of 4Ki from 4Ki to "
            "32Mi"},
        FieldCase{"  queues: 128\n  queueDepth: 64",
                  "9:15: spec.queueDepth: queues x queueDepth x maxIOSize = 128 x 64 x 256Ki = 2Gi "
                  "of locked memory; at most 1Gi: lower one of them"}));

INSTANTIATE_TEST_SUITE_P(
    Others, FieldTest,
    testing::Values(
        FieldCase{"  readOnly: yes",
                  "8:13: spec.readOnly: unknown value 'yes'; expected true or false (did you mean "
                  "'true'?)"},
        FieldCase{"  running: off",
                  "8:12: spec.running: unknown value 'off'; expected true or false (did you mean "
                  "'false'?)"},
        FieldCase{"  running: \"false\"",
                  "8:12: spec.running: is a string; expected true or false without quotes"},
        FieldCase{"  running: 1", "8:12: spec.running: unknown value '1'; expected true or false"},
        FieldCase{"  device: {mode: 660}",
                  "8:18: spec.device.mode: '660' is not an octal mode; expected a string from "
                  "\"0000\" to \"0777\", such as \"0660\""},
        FieldCase{"  device: {mode: \"0888\"}",
                  "8:18: spec.device.mode: '0888' is not an octal mode; expected a string from "
                  "\"0000\" to \"0777\", such as \"0660\""},
        FieldCase{"  device: {mode: \"4755\"}",
                  "8:18: spec.device.mode: '4755' is not an octal mode; expected a string from "
                  "\"0000\" to \"0777\", such as \"0660\""},
        FieldCase{"  device: {owner: -1}",
                  "8:19: spec.device.owner: '-1' is neither the name nor the number of an account"},
        FieldCase{"  device: {group: 4294967295}",
                  "8:19: spec.device.group: '4294967295' is too large; at most 4294967294"},
        FieldCase{"  nodeName: Node_1",
                  "8:13: spec.nodeName: 'Node_1' is not the name of a node; expected lower case "
                  "letters, digits, '-' and '.', as `kubectl get nodes` shows it"},
        FieldCase{"  reclaimPolicy: Remove",
                  "8:18: spec.reclaimPolicy: unknown value 'Remove'; expected Retain or Delete"},
        FieldCase{"  faultInjection: {latency: 61s}",
                  "8:29: spec.faultInjection.latency: 1m1s is too long; at most 1m"},
        FieldCase{"  zone: a",
                  "8:3: spec.zone: unknown field; expected nodeName, size, recovery, backend, "
                  "faultInjection, queues, queueDepth, logicalBlockSize, maxIOSize, readOnly, "
                  "running, device or reclaimPolicy"},
        FieldCase{"  running: true\n  running: false",
                  "9:3: spec.running: is set twice; first in line 8"}));

TEST(SizeTest, MustBeAWholeNumberOfBlocksAndPositive) {
  const auto size = [](const std::string& text) {
    return problems_of(with_spec("  backend: {null: {}}\n  size: " + text + "\n"));
  };
  EXPECT_THAT(size("10Gi"), IsEmpty());
  EXPECT_THAT(size("\"10Gi\""), IsEmpty());
  EXPECT_THAT(size("1073741824"), IsEmpty());
  EXPECT_THAT(size("0"),
              ElementsAre("vol.yaml:7:9: spec.size: is 0; expected a quantity such as 10Gi"));
  EXPECT_THAT(size("-1Gi"), ElementsAre("vol.yaml:7:9: spec.size: '-1Gi' is negative; expected a "
                                        "quantity such as 10Gi"));
  EXPECT_THAT(size("1G"), IsEmpty());  // a multiple of 512
  EXPECT_THAT(size("10001"),
              ElementsAre("vol.yaml:7:9: spec.size: 10001 is not a multiple of logicalBlockSize "
                          "(512); the next larger one is 10Ki"));
  EXPECT_THAT(size("512"), ElementsAre("vol.yaml:7:9: spec.size: 512 is too small; expected at "
                                       "least 4Ki (is the suffix missing?)"));
  EXPECT_THAT(size("8Ei"),
              ElementsAre("vol.yaml:7:9: spec.size: '8Ei' is too large; at most 2^63-1 bytes"));
  EXPECT_THAT(size("9223372036854775807"),
              ElementsAre("vol.yaml:7:9: spec.size: 9223372036854775807 is not a multiple of "
                          "logicalBlockSize (512)"));
  EXPECT_THAT(size("1G\n  logicalBlockSize: 4096"),
              ElementsAre("vol.yaml:7:9: spec.size: 1G is not a multiple of logicalBlockSize "
                          "(4096); the next larger one is 976564Ki"));
}

TEST(BackendTest, IsExactlyOneOfTheKnownOnes) {
  const auto backend = [](const std::string& text) {
    return problems_of(with_spec("  size: 1Gi\n  backend:" + text + "\n"));
  };
  const std::string null_and_file = " {null: {}, file: {path: a}}";
  EXPECT_THAT(backend(null_and_file),
              ElementsAre("vol.yaml:7:12: spec.backend: has both null and file; expected exactly "
                          "one of them"));
  EXPECT_THAT(backend(" {}"), ElementsAre("vol.yaml:7:12: spec.backend: names no backend; expected "
                                          "exactly one of null or file"));
  EXPECT_THAT(backend(" {null: {size: 1}}"),
              ElementsAre("vol.yaml:7:19: spec.backend.null: has fields; expected none: write "
                          "null: {}"));
  EXPECT_THAT(
      backend(" {fille: {path: a}}"),
      ElementsAre("vol.yaml:7:12: spec.backend: names no backend; expected exactly one of "
                  "null or file",
                  "vol.yaml:7:13: spec.backend.fille: unknown field (did you mean 'file'?)"));
  EXPECT_THAT(backend(" {file: {}}"),
              ElementsAre("vol.yaml:7:13: spec.backend.file.path: is missing; expected a path "
                          "relative to the pool, such as pgdata.img"));
}

TEST(BackendTest, NullMayBeWrittenInEveryWayYamlHas) {
  for (const std::string text : {" {null: {}}", " {\"null\": {}}", " {'null': {}}", " {null: }",
                                 " {null: null}", " {null: ~}", "\n    null: {}",
                                 "\n    \"null\": {}", "\n    null:", "\n    null:\n  queues: 2",
                                 "\n    null: {} # nothing", " {null: {}, file: null}"}) {
    const DecodedManifest manifest =
        decode_manifest(with_spec("  size: 1Gi\n  backend:" + text + "\n"), "vol.yaml");
    ASSERT_TRUE(manifest.ok()) << text
                               << problems_of(with_spec("  size: 1Gi\n  backend:" + text))[0];
    EXPECT_STREQ(backend_kind(manifest.documents[0].volume->spec.backend), "null") << text;
  }
}

TEST(BackendTest, ThePathStaysWithinItsPool) {
  const auto path = [](const std::string& text) {
    return problems_of(with_spec("  size: 1Gi\n  backend: {file: {path: " + text + "}}\n"));
  };
  const std::string at = "vol.yaml:7:26: spec.backend.file.path: ";
  EXPECT_THAT(path("a/b.img"), IsEmpty());
  EXPECT_THAT(path("..a/b..c/..."), IsEmpty());
  EXPECT_THAT(path("/etc/passwd"), ElementsAre(at + "'/etc/passwd' is absolute; expected a path "
                                                    "relative to the pool"));
  EXPECT_THAT(path("../x"), ElementsAre(at + "'../x' has the part '..'; expected a path that stays "
                                             "within the pool"));
  EXPECT_THAT(path("a/../../x"), ElementsAre(at + "'a/../../x' has the part '..'; expected a path "
                                                  "that stays within the pool"));
  EXPECT_THAT(path("./x"), ElementsAre(at + "'./x' has the part '.'; expected a path that stays "
                                            "within the pool"));
  EXPECT_THAT(path("a//b"), ElementsAre(at + "'a//b' has an empty part ('//')"));
  EXPECT_THAT(path("a/"), ElementsAre(at + "'a/' ends in '/'; expected the path of a file"));
  EXPECT_THAT(path("\"\""), ElementsAre(at + "is empty; expected a path relative to the pool, such "
                                             "as pgdata.img"));
  EXPECT_THAT(path("\"a\\0b\""), ElementsAre(at + "'a?b' holds a control character"));
  EXPECT_THAT(
      path("\"" + std::string(256, 'a') + "\""),
      ElementsAre(at + "'" + std::string(60, 'a') + "...' has a part longer than 255 bytes"));
  EXPECT_THAT(path("\"" + std::string(4097, 'a') + "\""),
              ElementsAre(at + "'" + std::string(60, 'a') + "...' is longer than 4096 bytes"));
  EXPECT_THAT(path("7"), ElementsAre(at + "'7' is a number in YAML; expected a string: put it in "
                                          "quotes"));
}

TEST(BackendTest, ThePoolIsADnsLabel) {
  EXPECT_THAT(
      problems_of(with_spec("  size: 1Gi\n  backend: {file: {path: a, pool: ../b}}\n")),
      ElementsAre("vol.yaml:7:35: spec.backend.file.pool: '../b' is not the name of a pool; "
                  "expected up to 63 lower case letters, digits and '-', a letter or digit "
                  "at both ends"));
}

TEST(MetadataTest, TheNameIsADnsSubdomain) {
  const auto name_is_good = [](const std::string& name) {
    const std::string text =
        testing_manifests::header(name) + "spec:\n  size: 1Gi\n  backend: {null: {}}\n";
    return decode_manifest(text, "vol.yaml").ok();
  };
  const std::string label(63, 'a');
  const std::string labels = join({label, label, label}, ".");  // 191 characters
  const std::vector<std::string> good = {"a", "pg-data.example", label,
                                         join({labels, std::string(61, 'a')}, ".")};
  for (const std::string& name : good) EXPECT_TRUE(name_is_good(name)) << name;
  const std::vector<std::string> bad = {"PG",
                                        "a_b",
                                        "-a",
                                        "a-",
                                        "a..b",
                                        ".a",
                                        "a/b",
                                        "\"..\"",
                                        "\"\"",
                                        "12",
                                        "\"a\\nb\"",
                                        label + "a",
                                        join({labels, std::string(62, 'a')}, ".")};
  for (const std::string& name : bad) EXPECT_FALSE(name_is_good(name)) << name;
}

TEST(MetadataTest, WhatKubernetesAddsIsPassedOver) {
  const std::string text =
      "apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\n"
      "metadata:\n  name: pgdata\n  namespace: x\n  uid: u-1\n  generation: 7\n"
      "  resourceVersion: \"12\"\n  creationTimestamp: null\n  finalizers: [a]\n"
      "  ownerReferences: []\n  selfLink: s\n  generateName: g\n  deletionTimestamp: t\n"
      "  managedFields: [{manager: kubectl}]\n"
      "  labels: {app: db, tier: null}\n  annotations: {note: \"a\"}\n"
      "spec: {size: 1Gi, backend: {null: {}}}\n"
      "status: {nonsense: [1, 2]}\n";
  const DecodedManifest manifest = decode_manifest(text, "vol.yaml");
  ASSERT_TRUE(manifest.ok()) << problems_of(text)[0];
  const Metadata& metadata = manifest.documents[0].volume->metadata;
  EXPECT_EQ(metadata.uid, "");
  EXPECT_EQ(metadata.generation, 1);
  EXPECT_EQ(metadata.labels, (std::map<std::string, std::string>{{"app", "db"}}));
  EXPECT_EQ(manifest.documents[0].volume->status, VolumeStatus{});
}

TEST(MetadataTest, LabelsAreStrings) {
  EXPECT_THAT(problems_of("apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\n"
                          "metadata:\n  name: a\n  labels: {a.b/c: on}\n"
                          "spec: {size: 1Gi, backend: {null: {}}}\n"),
              ElementsAre("vol.yaml:5:19: metadata.labels.'a.b/c': 'on' is a boolean in YAML; "
                          "expected a string: put it in quotes"));
}

TEST(TypeTest, WrongVersionsAndKindsAreNamed) {
  const std::string rest = "metadata: {name: a}\nspec: {size: 1Gi, backend: {null: {}}}\n";
  EXPECT_THAT(problems_of("apiVersion: ublk.dev/v1\nkind: UblkVolumes\n" + rest),
              ElementsAre("vol.yaml:1:13: apiVersion: unknown value 'ublk.dev/v1'; expected "
                          "ublk.dev/v1alpha1",
                          "vol.yaml:2:7: kind: unknown value 'UblkVolumes'; expected UblkVolume"));
  EXPECT_THAT(problems_of("apiversion: ublk.dev/v1alpha1\nkind: UblkVolume\n" + rest),
              ElementsAre("vol.yaml:1:1: apiVersion: is missing; expected ublk.dev/v1alpha1",
                          "vol.yaml:1:1: apiversion: unknown field (did you mean 'apiVersion'?)"));
}

TEST(TypeTest, OfAnotherKindOnlyTheKindIsWrong) {
  EXPECT_THAT(problems_of("apiVersion: ublk.dev/v1alpha1\nkind: ConfigMap\n"
                          "metadata: {name: a}\ndata: {x: y}\n"),
              ElementsAre("vol.yaml:2:7: kind: unknown value 'ConfigMap'; expected UblkVolume"));
}

TEST(RulesTest, AllProblemsAreSaidInTheOrderOfTheFile) {
  EXPECT_THAT(problems_of("kind: UblkVolume\nspec:\n  queues: 0\n  sise: 1Gi\n"),
              ElementsAre("vol.yaml:1:1: apiVersion: is missing; expected ublk.dev/v1alpha1",
                          "vol.yaml:1:1: metadata: is missing; expected an object with the "
                          "volume's name",
                          "vol.yaml:2:1: spec.backend: is missing; expected exactly one of null or "
                          "file",
                          "vol.yaml:2:1: spec.size: is missing; expected a quantity such as 10Gi",
                          "vol.yaml:3:11: spec.queues: '0' is not a whole number from 1 to 4096",
                          "vol.yaml:4:3: spec.sise: unknown field (did you mean 'size'?)"));
}

TEST(RulesTest, OwnersAndModesMayBeWrittenAsPeopleDo) {
  const auto access = [](const std::string& text) {
    const auto manifest = decode_manifest(with_fields("  device: " + text + "\n"), "vol.yaml");
    EXPECT_TRUE(manifest.ok()) << text;
    return manifest.ok() ? manifest.documents[0].volume->spec.device : DeviceAccess{};
  };
  EXPECT_EQ(access("{mode: 0640}").mode, 0640U);
  EXPECT_EQ(access("{mode: \"0640\"}").mode, 0640U);
  EXPECT_EQ(access("{mode: \"640\"}").mode, 0640U);
  EXPECT_EQ(access("{mode: 0}").mode, 0U);
  EXPECT_EQ(access("{owner: 1000, group: \"1001\"}").owner, "1000");
  EXPECT_EQ(access("{owner: 1000, group: \"1001\"}").group, "1001");
  EXPECT_EQ(access("{owner: _ceph.x-1}").owner, "_ceph.x-1");
}

TEST(RulesTest, LongAndUnprintableTextIsNotRepeated) {
  const auto problems = problems_of(
      with_fields("  recovery: {mode: \"\\e[31m" + std::string(100'000, 'x') + "\"}\n"));
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_LT(problems[0].size(), 250U);
  EXPECT_EQ(problems[0].find('\x1b'), std::string::npos);
}

TEST(UpdateTest, AVolumeMayOnlyGrow) {
  Volume current;
  current.spec.size_bytes = uint64_t{10} << 30;
  Volume wanted = current;
  EXPECT_TRUE(validate_update(current, wanted, "f").empty());
  wanted.spec.size_bytes = uint64_t{20} << 30;
  EXPECT_TRUE(validate_update(current, wanted, "f").empty());
  wanted.spec.size_bytes = uint64_t{5} << 30;
  const auto problems = validate_update(current, wanted, "vol.yaml");
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_EQ(problems[0].to_string(),
            "vol.yaml: spec.size: may only grow: 10Gi -> 5Gi; keep 10Gi, or make a smaller volume "
            "under another name and copy the data");
}

TEST(UpdateTest, WhereTheDataLiesIsFixed) {
  Volume current;
  current.spec.backend = FileBackendSpec{"fast", "a.img", Provisioning::thin, false};
  Volume wanted = current;
  wanted.spec.backend = FileBackendSpec{"slow", "b.img", Provisioning::thick, true};
  auto problems = validate_update(current, wanted, "vol.yaml");
  ASSERT_EQ(problems.size(), 2U);
  EXPECT_EQ(problems[0].to_string(),
            "vol.yaml: spec.backend.file.pool: cannot change: 'fast' -> 'slow'; keep it, or make a "
            "volume under another name");
  EXPECT_EQ(problems[1].field, "spec.backend.file.path");

  wanted = current;
  wanted.spec.node_name = "b";  // bound: by a user, or by the controller
  EXPECT_TRUE(validate_update(current, wanted, "vol.yaml").empty());
  std::swap(current, wanted);
  EXPECT_TRUE(validate_update(current, wanted, "vol.yaml").empty()) << "not said any more";
  wanted.spec.node_name = "c";
  problems = validate_update(current, wanted, "vol.yaml");
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_EQ(problems[0].to_string(),
            "vol.yaml: spec.nodeName: cannot change: 'b' -> 'c': the data is there; keep it, or "
            "make a volume under another name");

  wanted.spec.backend = NullBackendSpec{};
  problems = validate_update(current, wanted, "vol.yaml");
  ASSERT_EQ(problems.size(), 1U);
  EXPECT_EQ(problems[0].to_string(),
            "vol.yaml: spec.backend: cannot change: file -> null; keep it, or make a volume under "
            "another name");
}

}  // namespace
}  // namespace ublk_operator

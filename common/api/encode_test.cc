// What is written reads back the same; the examples are right; the reference names every field.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "common/api/decode.h"
#include "common/api/test_manifests.h"
#include "common/base/files.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {
namespace {

using nlohmann::json;

// Valid volumes of every shape, from a seed.
class VolumeGenerator {
 public:
  explicit VolumeGenerator(unsigned seed) : random_(seed) {}

  Volume next() {
    Volume volume;
    volume.metadata.name = "v" + std::to_string(below(1000)) + (flip() ? ".example-1" : "");
    volume.metadata.uid = flip() ? text() : "";
    volume.metadata.generation = static_cast<int64_t>(below(1'000'000'000'000));
    fill(volume.metadata.labels);
    fill(volume.metadata.annotations);
    volume.spec = spec();
    volume.status = status();
    return volume;
  }

 private:
  uint64_t below(uint64_t bound) { return random_() % bound; }
  bool flip() { return below(2) == 0; }
  // Everything that could be taken for something else in YAML or JSON.
  std::string text() {
    static const std::vector<std::string> texts = {"plain",
                                                   "yes",
                                                   "null",
                                                   "~",
                                                   "0660",
                                                   "1e3",
                                                   "a: b",
                                                   "# no comment",
                                                   "- item",
                                                   "{",
                                                   "\"",
                                                   "'",
                                                   "a\nb",
                                                   "\ttab",
                                                   "\\",
                                                   "12:30",
                                                   "2024-01-01",
                                                   "- ",
                                                   "tr\u00fcb",
                                                   " space ",
                                                   "1_000",
                                                   "@",
                                                   "%",
                                                   "\x01",
                                                   "ServerKilled (signal 9)"};
    return texts[below(texts.size())];
  }
  void fill(std::map<std::string, std::string>& map) {
    for (uint64_t i = below(4); i > 0; --i) map[text()] = flip() ? text() : "";
  }
  std::chrono::milliseconds duration(uint64_t bound) {
    return std::chrono::milliseconds(1 + static_cast<int64_t>(below(bound)));
  }

  VolumeSpec spec() {
    VolumeSpec spec;
    if (flip()) spec.node_name = "node-1";
    spec.logical_block_bytes = 512U << below(4);
    spec.size_bytes = (1 + below(uint64_t{1} << (1 + below(50)))) * 4096;
    spec.recovery.mode = static_cast<RecoveryMode>(below(4));
    if (flip()) {
      spec.recovery.deadline = duration(2'000'000'000);
      if (flip()) spec.recovery.on_deadline = OnDeadline::fail_device;
    }
    spec.recovery.max_restarts = static_cast<uint32_t>(1 + below(1'000'000));
    spec.recovery.back_off.initial = duration(10'000);
    spec.recovery.back_off.maximum = spec.recovery.back_off.initial + duration(100'000'000);
    if (flip()) {
      spec.backend = FileBackendSpec{flip() ? "default" : "pool-2", flip() ? "a/b c.img" : "1e3",
                                     static_cast<Provisioning>(below(2)), flip()};
    }
    spec.fault_injection.latency = duration(60'000);
    spec.queues = static_cast<uint32_t>(1 + below(16));
    spec.queue_depth = static_cast<uint32_t>(1 + below(64));
    spec.max_io_bytes = static_cast<uint32_t>(4096 * (1 + below(256)));
    spec.read_only = flip();
    spec.running = flip();
    spec.device = {static_cast<uint32_t>(below(01000)), flip() ? "root" : "1000",
                   flip() ? "disk" : "0"};
    spec.reclaim_policy = static_cast<ReclaimPolicy>(below(2));
    return spec;
  }

  VolumeStatus status() {
    VolumeStatus status;
    status.observed_generation = static_cast<int64_t>(below(100));
    for (uint64_t i = below(4); i > 0; --i) {
      status.conditions.push_back({"Ready", static_cast<ConditionStatus>(below(3)), text(), text(),
                                   static_cast<int64_t>(below(9)), text()});
    }
    if (flip()) status.device_id = static_cast<uint32_t>(below(1000));
    status.device_path = flip() ? "/dev/ublkb3" : "";
    status.link_path = flip() ? "/dev/ublk/by-name/a" : "";
    status.state = flip() ? "QUIESCED" : "";
    if (flip()) status.server_pid = static_cast<int64_t>(below(4'000'000));
    status.lease_generation = random_();
    status.recovery_count = below(100);
    if (flip()) {
      status.last_recovery_duration =
          std::chrono::microseconds(static_cast<int64_t>(below(100'000'000)));
    }
    status.last_recovery_reason = flip() ? text() : "";
    status.last_recovery_time = flip() ? text() : "";
    status.size_bytes = below(uint64_t{1} << 40);
    if (flip()) status.io["read"] = {random_(), random_(), below(5)};
    if (flip()) status.io["write_zeroes"] = {below(100), below(100), 0};
    if (flip()) status.io_errors["EIO"] = random_();
    return status;
  }

  std::mt19937_64 random_;
};

TEST(EncodeTest, JsonReadsBackTheSame) {
  constexpr unsigned seed = 20250104;
  VolumeGenerator generator(seed);
  for (int i = 0; i < 500; ++i) {
    const Volume volume = generator.next();
    const json encoded = to_json(volume);
    const auto read = volume_from_json(json::parse(encoded.dump()));
    ASSERT_TRUE(read.ok()) << read.error().to_string() << "\nseed " << seed << ", volume " << i;
    ASSERT_EQ(*read, volume) << encoded.dump(2) << "\nseed " << seed << ", volume " << i;
  }
}

// What a person gets from `ublkctl get -o yaml` can be applied again.
TEST(EncodeTest, YamlReadsBackAsTheSameSpec) {
  constexpr unsigned seed = 20250105;
  VolumeGenerator generator(seed);
  for (int i = 0; i < 300; ++i) {
    const Volume volume = generator.next();
    const std::string text = to_yaml(to_json(volume));
    const DecodedManifest manifest = decode_manifest(text, "vol.yaml");
    ASSERT_TRUE(manifest.ok()) << testing_manifests::problems_of(text)[0] << "\n" << text;
    const Volume& read = *manifest.documents.at(0).volume;
    ASSERT_EQ(read.spec, volume.spec) << text;
    ASSERT_EQ(read.metadata.labels, volume.metadata.labels) << text;
    ASSERT_EQ(read.metadata.annotations, volume.metadata.annotations) << text;
  }
}

TEST(EncodeTest, YamlStandsInTheOrderPeopleExpect) {
  Volume volume;
  volume.metadata.name = "pgdata";
  volume.spec.size_bytes = uint64_t{1} << 30;
  volume.status.conditions.push_back(
      {"Ready", ConditionStatus::yes, "Serving", "all: well", 1, "t"});
  volume.status.last_recovery_duration = std::chrono::microseconds(41'200);
  EXPECT_EQ(to_yaml(to_json(volume)),
            "apiVersion: ublk.dev/v1alpha1\n"
            "kind: UblkVolume\n"
            "metadata:\n"
            "  name: pgdata\n"
            "  generation: 1\n"
            "spec:\n"
            "  size: 1Gi\n"
            "  recovery:\n"
            "    mode: Reissue\n"
            "    onDeadline: KeepWaiting\n"
            "    maxRestarts: 10\n"
            "    backOff:\n"
            "      initial: 100ms\n"
            "      max: 30s\n"
            "  backend:\n"
            "    \"null\": {}\n"
            "  faultInjection:\n"
            "    latency: 0s\n"
            "  queues: 1\n"
            "  queueDepth: 64\n"
            "  maxIOSize: 256Ki\n"
            "  logicalBlockSize: 512\n"
            "  readOnly: false\n"
            "  running: true\n"
            "  device:\n"
            "    mode: \"0660\"\n"
            "    owner: root\n"
            "    group: disk\n"
            "  reclaimPolicy: Retain\n"
            "status:\n"
            "  observedGeneration: 0\n"
            "  conditions:\n"
            "  - type: Ready\n"
            "    status: \"True\"\n"
            "    reason: Serving\n"
            "    message: \"all: well\"\n"
            "    observedGeneration: 1\n"
            "    lastTransitionTime: t\n"
            "  leaseGeneration: 0\n"
            "  recoveryCount: 0\n"
            "  lastRecovery:\n"
            "    duration: 41.2ms\n");
}

TEST(EncodeTest, YamlOfOtherValuesIsYaml) {
  EXPECT_EQ(to_yaml(json::parse(R"([{"b": [], "a": [1, "x", [2, 3], {}]}, null, true, "no"])")),
            "- a:\n"
            "  - 1\n"
            "  - x\n"
            "  -\n"
            "    - 2\n"
            "    - 3\n"
            "  - {}\n"
            "  b: []\n"
            "- null\n"
            "- true\n"
            "- \"no\"\n");
  EXPECT_EQ(to_yaml(json::object()), "{}\n");
  EXPECT_EQ(to_yaml(json("\xff")), "\"\xef\xbf\xbd\"\n");  // never throws, even for broken UTF-8
}

TEST(EncodeTest, AVolumeWhoseManifestWasNeverRightHasNoSpec) {
  Volume volume;
  volume.metadata.name = "broken";
  volume.status.conditions.push_back({"SpecValid", ConditionStatus::no, "Invalid", "m", 0, "t"});
  const json encoded = to_json(volume);
  EXPECT_FALSE(encoded.contains("spec"));
  const auto read = volume_from_json(encoded);
  ASSERT_TRUE(read.ok()) << read.error().to_string();
  EXPECT_EQ(*read, volume);
}

TEST(EncodeTest, AStatusOfANewerAgentCanBeRead) {
  Volume volume;
  volume.metadata.name = "a";
  json encoded = to_json(volume);
  encoded["status"]["notYetInvented"] = {{"x", 1}};
  EXPECT_EQ(volume_from_json(encoded).value(), volume);
}

TEST(EncodeTest, EventsReadBackTheSame) {
  const VolumeEvent event{"pgdata",
                          true,
                          "ServerDied",
                          "killed by signal 9",
                          "2024-01-01T00:00:00Z",
                          "2024-01-01T00:00:01Z",
                          3};
  EXPECT_EQ(event_from_json(to_json(event)).value(), event);
  json wrong = to_json(event);
  wrong["type"] = "Bad";
  EXPECT_EQ(event_from_json(wrong).error().to_string(),
            "EINVAL decode event: type: unknown value 'Bad'; expected Normal or Warning");
}

TEST(ExamplesTest, AreAllRight) {
  const std::filesystem::path folder =
      std::filesystem::path(UBLK_SOURCE_DIR) / "manifests/examples";
  size_t examples = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".yaml") continue;
    ++examples;
    const auto text = read_file(entry.path(), size_t{1} << 20);
    ASSERT_TRUE(text.ok()) << entry.path();
    EXPECT_THAT(testing_manifests::problems_of(*text), testing::IsEmpty()) << entry.path();
  }
  EXPECT_GE(examples, 5U);
}

void add_names(const json& value, std::vector<std::string>& names) {  // NOLINT(misc-no-recursion)
  for (const auto& [key, inner] : value.items()) {
    names.push_back(key);
    if (inner.is_object()) add_names(inner, names);
    if (inner.is_array()) {
      for (const auto& item : inner) {
        if (item.is_object()) add_names(item, names);
      }
    }
  }
}

TEST(ReferenceTest, NamesEveryField) {
  // The one is rendered from the definition, the other has what only the local API knows.
  std::string reference;
  for (const char* page : {"ublkvolume.md", "manifest.md"}) {
    const auto text =
        read_file(std::string(UBLK_SOURCE_DIR) + "/docs/reference/" + page, size_t{1} << 20);
    ASSERT_TRUE(text.ok()) << text.error().to_string();
    reference += *text;
  }
  Volume volume =
      *decode_manifest(testing_manifests::complete(), "vol.yaml").documents.at(0).volume;
  volume.status.conditions.emplace_back();
  volume.status.device_id = 1;
  volume.status.device_path = volume.status.link_path = volume.status.state = "x";
  volume.status.server_pid = 1;
  volume.status.last_recovery_duration = std::chrono::milliseconds(1);
  volume.status.last_recovery_reason = volume.status.last_recovery_time = "x";
  volume.status.size_bytes = 4096;
  volume.status.io["read"] = {};
  volume.status.io_errors["EIO"] = 1;
  std::vector<std::string> names;
  add_names(to_json(volume), names);
  EXPECT_GT(names.size(), 50U);
  for (const std::string& name : names) {
    // As `name`, or as a part of `recovery.backOff.max`.
    bool documented = false;
    for (const char* before : {"`", "."}) {
      for (const char* after : {"`", "."}) {
        documented = documented || reference.find(before + name + after) != std::string::npos;
      }
    }
    EXPECT_TRUE(documented) << name << " is not in docs/reference";
  }
}

}  // namespace
}  // namespace ublk_operator

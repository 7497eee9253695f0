#include "node/agent/state_store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "common/base/files.h"
#include "common/base/limits.h"

namespace ublk_operator {
namespace {

class StateStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "state_store_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  std::unique_ptr<StateStore> open() {
    auto store = StateStore::open(dir_ + "/state", dir_ + "/run");
    EXPECT_TRUE(store.ok()) << store.error().to_string();
    return std::move(store).value();
  }
  [[nodiscard]] std::string record_path(const std::string& stem) const {
    return dir_ + "/state/volumes/" + stem + ".json";
  }
  [[nodiscard]] std::string lease_path(const std::string& stem) const {
    return dir_ + "/run/leases/" + stem + ".json";
  }

  std::string dir_;
};

VolumeRecord record_of(const std::string& name) {
  VolumeRecord record;
  record.volume.metadata.name = name;
  record.volume.metadata.uid = "uid-of-" + name;
  record.volume.metadata.generation = 7;
  record.volume.metadata.labels = {{"app", "db"}};
  record.volume.spec.size_bytes = uint64_t{1} << 30;
  record.volume.spec.recovery.mode = RecoveryMode::queue;
  FileBackendSpec file;
  file.path = "volumes/1.img";
  file.direct_io = true;
  record.volume.spec.backend = file;
  record.source = {"/etc/ublk/volumes/" + name + ".yaml", "00ff:12:34.5"};
  record.backend = BackendIdentity{UINT64_MAX, 12, 1'700'000'000'123'456'789, 1 << 30};
  record.stopped = true;
  record.recovery_count = 3;
  record.last_recovery_reason = "ServerKilled (signal 9)";
  record.last_recovery_time = "2025-01-01T00:00:00Z";
  record.last_recovery_us = 41'000;
  record.lease_generation = 9;
  return record;
}

Lease lease_of() {
  Lease lease;
  lease.device = 3;
  lease.generation = 9;
  lease.step = LeaseStep::granted;
  lease.recovery_begun = true;
  lease.stale_mapping = true;
  lease.holder_pid = 4711;
  lease.holder_start_ticks = 123'456;
  lease.device_spec = record_of("a").volume.spec;
  lease.lost = "was killed by SIGKILL (9)";
  return lease;
}

TEST_F(StateStoreTest, ARecordIsReadBackAsItWasWritten) {
  const VolumeRecord record = record_of("pg.data-1");
  ASSERT_TRUE(open()->save(record).ok());
  const auto loaded = open()->load();
  ASSERT_TRUE(loaded.ok());
  ASSERT_EQ(loaded->volumes.size(), 1U);
  EXPECT_EQ(loaded->volumes[0], record);
  EXPECT_TRUE(loaded->broken.empty());
}

TEST_F(StateStoreTest, StatusIsNotStored) {
  VolumeRecord record = record_of("a");
  record.volume.status.server_pid = 4711;
  record.volume.status.state = "LIVE";
  ASSERT_TRUE(open()->save(record).ok());
  const auto loaded = open()->load();
  ASSERT_EQ(loaded->volumes.size(), 1U);
  EXPECT_EQ(loaded->volumes[0].volume.status, VolumeStatus{});
}

TEST_F(StateStoreTest, WhatIsOptionalMayBeMissing) {
  VolumeRecord record = record_of("a");
  record.backend.reset();
  record.last_recovery_us.reset();
  ASSERT_TRUE(open()->save(record).ok());
  const auto loaded = open()->load();
  ASSERT_EQ(loaded->volumes.size(), 1U);
  EXPECT_EQ(loaded->volumes[0], record);
}

TEST_F(StateStoreTest, ALeaseIsReadBackAsItWasWritten) {
  Lease lease = lease_of();
  ASSERT_TRUE(open()->save_lease("a", lease).ok());
  EXPECT_EQ(open()->load_lease("a"), lease);
  lease.holder_pid = -1;
  for (const LeaseStep step : {LeaseStep::none, LeaseStep::fencing, LeaseStep::released,
                               LeaseStep::granted, LeaseStep::serving}) {
    lease.step = step;
    auto store = open();
    ASSERT_TRUE(store->save_lease("a", lease).ok());
    EXPECT_EQ(store->load_lease("a"), lease) << to_string(step);
  }
}

TEST_F(StateStoreTest, NamesOfTheGreatestLengthHaveFilesOfTheirOwn) {
  auto store = open();
  const std::string label = std::string(63, 'x') + ".";
  const std::string one = label + label + label + std::string(60, 'x') + "1";
  const std::string two = label + label + label + std::string(60, 'x') + "2";
  ASSERT_EQ(one.size(), limits::volume_name_bytes_max);
  for (const std::string& name : {one, two}) {
    const auto saved = store->save(record_of(name));
    ASSERT_TRUE(saved.ok()) << saved.error().to_string();
    ASSERT_TRUE(store->save_lease(name, lease_of()).ok());
  }
  const auto loaded = store->load();
  for (const BrokenRecord& broken : loaded->broken) ADD_FAILURE() << broken.error.to_string();
  EXPECT_EQ(loaded->volumes.size(), 2U);
  ASSERT_TRUE(store->erase(one).ok());
  EXPECT_FALSE(store->load_lease(one));
  EXPECT_TRUE(store->load_lease(two));
}

TEST_F(StateStoreTest, BrokenRecordsAreMovedAsideAndTheOthersRead) {
  auto store = open();
  ASSERT_TRUE(store->save(record_of("good")).ok());
  ASSERT_TRUE(store->save(record_of("cut")).ok());
  const std::string whole = read_file(record_path("cut"), 1 << 20).value();
  ASSERT_TRUE(write_file_atomically(record_path("cut"), whole.substr(0, whole.size() / 2)).ok());
  ASSERT_TRUE(write_file_atomically(record_path("empty"), "").ok());
  ASSERT_TRUE(write_file_atomically(record_path("future"), R"({"version": 2})").ok());
  ASSERT_TRUE(write_file_atomically(record_path("bare"), R"({"version": 1})").ok());
  ASSERT_TRUE(write_file_atomically(record_path("another"), whole).ok());  // says "cut"

  const auto loaded = store->load();
  ASSERT_TRUE(loaded.ok());
  ASSERT_EQ(loaded->volumes.size(), 1U);
  EXPECT_EQ(loaded->volumes[0].volume.metadata.name, "good");
  ASSERT_EQ(loaded->broken.size(), 5U);
  for (const BrokenRecord& broken : loaded->broken) {
    EXPECT_TRUE(broken.path.ends_with(".json.broken")) << broken.path;
    EXPECT_TRUE(std::filesystem::exists(broken.path));
    EXPECT_EQ(broken.error.err, EINVAL);
  }
  EXPECT_TRUE(store->load()->broken.empty()) << "reported once";
}

TEST_F(StateStoreTest, ANumberOfTheWrongKindIsNotReinterpreted) {
  auto store = open();
  ASSERT_TRUE(store->save(record_of("a")).ok());
  std::string text = read_file(record_path("a"), 1 << 20).value();
  const std::string field = "\"leaseGeneration\": 9";
  const size_t at = text.find(field);
  ASSERT_NE(at, std::string::npos);
  ASSERT_TRUE(write_file_atomically(record_path("a"),
                                    text.replace(at, field.size(), "\"leaseGeneration\": -9"))
                  .ok());
  EXPECT_EQ(store->load()->broken.size(), 1U);
}

TEST_F(StateStoreTest, ABrokenLeaseIsMovedAside) {
  auto store = open();
  ASSERT_TRUE(write_file_atomically(lease_path("a"), "{").ok());
  EXPECT_FALSE(store->load_lease("a"));
  EXPECT_TRUE(std::filesystem::exists(lease_path("a") + ".broken"));
  EXPECT_FALSE(std::filesystem::exists(lease_path("a")));
}

TEST_F(StateStoreTest, TheLeaseOfAnotherVolumeIsNotTaken) {
  auto store = open();
  ASSERT_TRUE(store->save_lease("a", lease_of()).ok());
  std::filesystem::rename(lease_path("a"), lease_path("b"));
  EXPECT_FALSE(store->load_lease("b"));
}

TEST_F(StateStoreTest, EraseTakesRecordAndLeaseAndMayBeRepeated) {
  auto store = open();
  ASSERT_TRUE(store->save(record_of("a")).ok());
  ASSERT_TRUE(store->save_lease("a", lease_of()).ok());
  ASSERT_TRUE(store->erase("a").ok());
  EXPECT_TRUE(store->load()->volumes.empty());
  EXPECT_FALSE(store->load_lease("a"));
  EXPECT_TRUE(store->erase("a").ok());
  EXPECT_TRUE(store->erase_lease("a").ok());
}

TEST_F(StateStoreTest, LeftoversOfAnInterruptedWriteAreCleared) {
  auto store = open();
  ASSERT_TRUE(write_file_atomically(record_path("a") + ".tmp", "half").ok());
  ASSERT_TRUE(store->load().ok());
  EXPECT_FALSE(std::filesystem::exists(record_path("a") + ".tmp"));
}

TEST_F(StateStoreTest, NamesThatWouldLeaveTheFolderAreRefused) {
  auto store = open();
  for (const std::string name : {"", "..", "a/b", "../a", ".hidden"}) {
    EXPECT_EQ(store->save(record_of(name)).err(), EINVAL) << name;
    EXPECT_EQ(store->save_lease(name, lease_of()).err(), EINVAL) << name;
    EXPECT_EQ(store->erase(name).err(), EINVAL) << name;
    EXPECT_FALSE(store->load_lease(name)) << name;
  }
}

TEST_F(StateStoreTest, ASecondAgentIsRefusedByNameOfTheFirst) {
  auto first = open();
  const auto second = StateStore::open(dir_ + "/state", dir_ + "/run");
  ASSERT_EQ(second.err(), EWOULDBLOCK);
  EXPECT_NE(second.error().detail.find("process " + std::to_string(::getpid())), std::string::npos)
      << second.error().to_string();
  first.reset();
  EXPECT_TRUE(StateStore::open(dir_ + "/state", dir_ + "/run").ok());
}

TEST_F(StateStoreTest, TheNodeKeepsItsId) {
  const std::string id = open()->node_id("").value();
  EXPECT_EQ(id.size(), 32U);
  EXPECT_EQ(open()->node_id("").value(), id);
  // The next agent may run where another /etc/machine-id lies, or none; devices keep their marks.
  EXPECT_EQ(open()->node_id("0123456789abcdef0123456789abcdef").value(), id);
}

TEST_F(StateStoreTest, TheNodesFirstIdIsTheMachines) {
  const std::string machine = "0123456789abcdef0123456789abcdef";
  EXPECT_EQ(open()->node_id(machine).value(), machine);
  EXPECT_EQ(open()->node_id("").value(), machine) << "and stays that in a container without one";
}

TEST_F(StateStoreTest, ADamagedNodeIdIsNotReplacedByANewOne) {
  auto store = open();
  ASSERT_TRUE(write_file_atomically(dir_ + "/state/node-id", "0123\n").ok());
  EXPECT_EQ(store->node_id("").err(), EINVAL);
}

TEST_F(StateStoreTest, OthersMayNotReadTheFolders) {
  open();
  for (const std::string folder : {"/state/volumes", "/run/leases"}) {
    struct stat info{};
    ASSERT_EQ(::stat((dir_ + folder).c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0077U, 0U) << folder;
  }
}

}  // namespace
}  // namespace ublk_operator

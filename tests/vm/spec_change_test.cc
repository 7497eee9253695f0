// What a changed spec does to a volume that runs: what can change alive changes alive, what needs a
// new device waits until nobody uses the old one, what would lose data is refused.
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <optional>
#include <string>

#include "tests/vm/disk.h"
#include "tests/vm/known_data.h"
#include "tests/vm/lab_node.h"

namespace ublk_operator::lab {
namespace {

namespace fs = std::filesystem;

class SpecChangeTest : public ::testing::Test {
 protected:
  void make_volume(const ManifestOptions& options) { make_known_volume(node_, options); }
  void expect_data(const std::string& name) { expect_known_data(node_, name); }
  [[nodiscard]] bool wait_generation(const std::string& name, int64_t generation) {
    return node_.wait(name, "at generation " + std::to_string(generation), [&](const auto& v) {
      return v && v->status.observed_generation >= generation;
    });
  }
  [[nodiscard]] bool wait_served_by(const std::string& name, const std::string& what,
                                    const std::function<bool(const Volume&)>& as_wanted) {
    return node_.wait(name, what, [&](const auto& v) {
      if (!v) return false;
      const auto* ready = find_condition(v->status.conditions, "Ready");
      const auto* recreate = find_condition(v->status.conditions, "NeedsRecreate");
      return ready != nullptr && ready->status == ConditionStatus::yes && recreate != nullptr &&
             recreate->status == ConditionStatus::no && as_wanted(*v);
    });
  }
  [[nodiscard]] std::string file(const std::string& name) const {
    return node_.pool() + "/" + name + ".img";
  }
  // Of the kernel's disk, from sysfs.
  [[nodiscard]] std::string disk_fact(const std::string& name, const std::string& what) const {
    return shell_output("cat /sys/block/$(basename $(readlink " + node_.device(name) + "))/" +
                        what);
  }
  LabNode node_;
};

TEST_F(SpecChangeTest, PolicyAndDeadlinesChangeAlive) {
  make_volume({.size = "16Mi"});
  const Disk disk(node_.device("vol"));
  const Volume before = node_.get("vol");
  node_.apply(
      {.size = "16Mi", .extra = "    # one file, whatever the policy\n  reclaimPolicy: Delete\n"});
  ASSERT_TRUE(wait_generation("vol", 2));
  node_.write_manifest(
      "vol.yaml",
      "apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\nmetadata:\n  name: vol\nspec:\n"
      "  size: 16Mi\n  backend:\n    file:\n      path: vol.img\n  recovery:\n"
      "    deadline: 90s\n    onDeadline: FailDevice\n    maxRestarts: 3\n"
      "    backOff:\n      initial: 200ms\n      max: 5s\n");
  ASSERT_TRUE(wait_generation("vol", 3));
  const Volume after = node_.get("vol");
  EXPECT_EQ(after.spec.recovery.deadline, 90s);
  EXPECT_EQ(after.spec.recovery.on_deadline, OnDeadline::fail_device);
  EXPECT_EQ(after.spec.reclaim_policy, ReclaimPolicy::retain);
  EXPECT_EQ(after.status.server_pid, before.status.server_pid);
  EXPECT_EQ(after.status.device_id, before.status.device_id);
  EXPECT_EQ(after.status.lease_generation, before.status.lease_generation);
  EXPECT_TRUE(node_.wait_condition("vol", "NeedsRecreate", "False"));
  EXPECT_EQ(disk.verify_range(0, known_blocks, known_version), 0);
}

TEST_F(SpecChangeTest, WhatNeedsANewDeviceWaitsUntilTheOldOneIsNotOpen) {
  make_volume({.size = "16Mi"});
  std::optional<Disk> disk(node_.device("vol"));
  const Volume before = node_.get("vol");
  node_.apply({.mode = "Queue",
               .size = "32Mi",
               .extra = "  queues: 2\n  queueDepth: 16\n  logicalBlockSize: 4096\n"});
  EXPECT_TRUE(node_.wait_condition("vol", "NeedsRecreate", "True"));
  EXPECT_TRUE(node_.wait_condition("vol", "InUse", "True"));
  // It goes on as it is, in all: also its recovery is still that of its mode.
  EXPECT_EQ(node_.server_pid("vol"), before.status.server_pid);
  EXPECT_EQ(disk->write(known_blocks, 8), 0);
  auto held = disk->start_write(known_blocks + 1, 8);
  node_.kill_server("vol");
  ASSERT_TRUE(node_.wait_recovered("vol", 0));
  EXPECT_EQ(held.get(), 0) << "Reissue, as the device was made";
  EXPECT_EQ(disk->verify_range(0, known_blocks, known_version), 0);
  EXPECT_EQ(node_.get("vol").status.device_id, before.status.device_id);
  EXPECT_TRUE(node_.wait_condition("vol", "NeedsRecreate", "True"));

  const auto closed = std::chrono::steady_clock::now();
  disk.reset();
  ASSERT_TRUE(wait_served_by("vol", "of the new shape",
                             [](const Volume& v) { return v.status.size_bytes == 32U << 20; }));
  EXPECT_LT(std::chrono::steady_clock::now() - closed, 15s);
  EXPECT_EQ(disk_fact("vol", "queue/logical_block_size"), "4096\n");
  EXPECT_EQ(disk_fact("vol", "size"), "65536\n");
  EXPECT_TRUE(node_.wait_condition("vol", "InUse", "False"));
  expect_data("vol");
  const Disk again(node_.device("vol"));
  EXPECT_EQ(again.verify(known_blocks + 1, 8), 0);
  EXPECT_EQ(again.write(8191, 9), 0) << "the last block of the larger disk";
}

TEST_F(SpecChangeTest, ReadOnlyAndDirectIoReachTheBackendOfTheNextDevice) {
  make_volume({.size = "16Mi"});
  node_.apply({.size = "16Mi", .extra = "  readOnly: true\n"});
  ASSERT_TRUE(wait_served_by("vol", "read-only", [](const Volume& v) { return v.spec.read_only; }));
  EXPECT_EQ(disk_fact("vol", "ro"), "1\n");
  {
    const Disk disk(node_.device("vol"));
    EXPECT_EQ(disk.verify_range(0, known_blocks, known_version), 0);
    EXPECT_EQ(disk.write(0, 9), EPERM);
  }
  node_.apply({.size = "16Mi"});
  ASSERT_TRUE(wait_served_by("vol", "writable", [](const Volume& v) { return !v.spec.read_only; }));
  expect_data("vol");

  // O_DIRECT is seen in the flags of the server's descriptor.
  const auto direct_files = [&] {
    return shell_output("grep -l \"^flags:.*[4567]....$\" /proc/" +
                        std::to_string(node_.server_pid("vol")) + "/fdinfo/* | wc -l");
  };
  EXPECT_EQ(direct_files(), "0\n");
  node_.apply({.size = "16Mi", .path = "vol.img\n      directIO: true"});
  ASSERT_TRUE(wait_served_by("vol", "direct", [](const Volume& v) {
    return std::get<FileBackendSpec>(v.spec.backend).direct_io;
  }));
  EXPECT_EQ(direct_files(), "1\n");
  expect_data("vol");
}

TEST_F(SpecChangeTest, ADeviceThatServesIsNotGivenUpForOneThatCouldNot) {
  make_volume({.size = "16Mi"});
  node_.apply({.size = "16Mi", .extra = "  readOnly: true\n"});
  ASSERT_TRUE(wait_served_by("vol", "read-only", [](const Volume& v) { return v.spec.read_only; }));
  const pid_t server = node_.server_pid("vol");
  ASSERT_EQ(shell("chattr +i " + file("vol")), 0);
  node_.apply({.size = "16Mi"});
  EXPECT_TRUE(node_.wait_condition("vol", "NeedsRecreate", "True", "BackendUnavailable"));
  EXPECT_TRUE(node_.wait_condition("vol", "Ready", "True"));
  EXPECT_EQ(node_.server_pid("vol"), server);
  EXPECT_EQ(Disk(node_.device("vol")).verify_range(0, known_blocks, known_version), 0);
  ASSERT_EQ(shell("chattr -i " + file("vol")), 0);
  ASSERT_TRUE(wait_served_by("vol", "writable", [](const Volume& v) { return !v.spec.read_only; }));
  expect_data("vol");
}

TEST_F(SpecChangeTest, ShrinkingAndAnotherBackendAreRefused) {
  make_volume({.size = "16Mi"});
  const Volume before = node_.get("vol");
  const auto refused = [&](const std::string& word) {
    EXPECT_TRUE(node_.wait("vol", "refused", [&](const auto& v) {
      const auto* valid = v ? find_condition(v->status.conditions, "SpecValid") : nullptr;
      return valid != nullptr && valid->status == ConditionStatus::no &&
             valid->message.find(word) != std::string::npos;
    })) << word;
  };
  node_.apply({.size = "8Mi"});
  refused("spec.size: may only grow");
  node_.apply({.size = "16Mi", .path = "other.img"});
  refused("spec.backend.file.path: cannot change");
  node_.apply({.size = "16Mi", .path = "vol.img\n      pool: gold"});
  refused("spec.backend.file.pool: cannot change");
  node_.apply({.size = "16Mi", .backend = "null"});
  refused("spec.backend: cannot change");
  EXPECT_TRUE(node_.has_event("vol", "SpecRefused"));

  const Volume after = node_.get("vol");
  EXPECT_EQ(after.spec, before.spec);
  EXPECT_EQ(after.status.server_pid, before.status.server_pid);
  EXPECT_EQ(fs::file_size(file("vol")), 16U << 20);
  EXPECT_FALSE(fs::exists(file("other")));
  expect_data("vol");
  node_.apply({.size = "16Mi"});
  EXPECT_TRUE(node_.wait_condition("vol", "SpecValid", "True"));
}

TEST_F(SpecChangeTest, RunningFalseWaitsForTheLastUserAndThenStops) {
  make_volume({.size = "16Mi"});
  std::optional<Disk> disk(node_.device("vol"));
  const auto server = node_.server_pid("vol");
  node_.apply({.size = "16Mi", .extra = "  running: false\n"});
  EXPECT_TRUE(node_.wait_condition("vol", "InUse", "True", "DiskOpen"));
  EXPECT_EQ(disk->write(known_blocks, 8), 0);
  EXPECT_EQ(node_.server_pid("vol"), server);
  disk.reset();
  EXPECT_TRUE(node_.wait_condition("vol", "Ready", "False", "Stopped"));
  EXPECT_FALSE(node_.get("vol").status.device_id);
  EXPECT_FALSE(fs::is_symlink(node_.device("vol")));
  EXPECT_TRUE(fs::exists(file("vol")));
  node_.apply({.size = "16Mi", .extra = "  running: true\n"});
  ASSERT_TRUE(node_.wait_ready("vol"));
  expect_data("vol");
}

TEST_F(SpecChangeTest, StopByHandIsRefusedWhileOpenUnlessForced) {
  make_volume({.size = "16Mi", .extra = "  faultInjection:\n    latency: 3s\n"});
  std::optional<Disk> disk(node_.device("vol"));
  const auto refused = node_.api().stop("vol", true, false);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.err(), EBUSY) << refused.error().to_string();
  EXPECT_NE(refused.error().to_string().find("--force"), std::string::npos);
  EXPECT_EQ(node_.kernel_state("vol"), "LIVE");

  auto held = disk->start_write(0, 9);
  ASSERT_TRUE(disk->wait_in_flight(1));
  const auto forced = node_.api().stop("vol", true, true);
  EXPECT_TRUE(forced.ok()) << forced.error().to_string();
  EXPECT_EQ(held.get(), EIO);
  EXPECT_NE(disk->verify(0, known_version), 0) << "nothing is behind it any more";
  EXPECT_TRUE(node_.wait_condition("vol", "Ready", "False", "Stopped"));
  disk.reset();

  // It stays stopped, also for the next agent, until somebody starts it.
  node_.terminate_agent();
  node_.start_agent();
  EXPECT_TRUE(node_.wait_condition("vol", "Ready", "False", "Stopped"));
  ASSERT_TRUE(node_.api().stop("vol", false, false).ok());
  ASSERT_TRUE(node_.wait_ready("vol"));
  const Disk again(node_.device("vol"));
  EXPECT_EQ(again.verify_range(1, known_blocks - 1, known_version), 0);
}

TEST_F(SpecChangeTest, RemovalWaitsForTheLastUserAndOnlyDeleteTakesTheFile) {
  make_volume({.name = "keep", .size = "4Mi"});
  make_volume({.name = "drop", .size = "4Mi", .extra = "  reclaimPolicy: Delete\n"});
  std::optional<Disk> keep(node_.device("keep"));
  std::optional<Disk> drop(node_.device("drop"));
  node_.remove_manifest("keep.yaml");
  node_.remove_manifest("drop.yaml");
  for (const auto& name : {"keep", "drop"})
    EXPECT_TRUE(node_.wait_condition(name, "InUse", "True", "DiskOpen"));
  // In use, a removed volume is recovered as ever.
  node_.kill_server("drop");
  EXPECT_EQ(drop->write(known_blocks, 8), 0);
  EXPECT_EQ(keep->write(known_blocks, 8), 0);
  EXPECT_EQ(drop->verify_range(0, known_blocks, known_version), 0);
  EXPECT_TRUE(fs::exists(file("drop"))) << "the file goes last";
  keep.reset();
  drop.reset();
  EXPECT_TRUE(node_.wait_gone("keep"));
  EXPECT_TRUE(node_.wait_gone("drop"));
  EXPECT_TRUE(fs::exists(file("keep")));
  EXPECT_FALSE(fs::exists(file("drop")));
  for (const auto& name : {"keep", "drop"}) EXPECT_FALSE(fs::is_symlink(node_.device(name)));

  // Retained means that the next volume on it has the data.
  node_.apply({.name = "heir", .size = "4Mi", .path = "keep.img"});
  ASSERT_TRUE(node_.wait_ready("heir"));
  expect_data("heir");
}

TEST_F(SpecChangeTest, ADeletePolicyTakesNoFileThatIsNotItsOwn) {
  make_volume({.size = "4Mi", .extra = "  reclaimPolicy: Delete\n"});
  fs::rename(file("vol"), file("saved"));
  fs::copy_file(file("saved"), file("vol"));
  EXPECT_TRUE(node_.wait_condition("vol", "BackendHealthy", "False"));
  node_.remove_manifest("vol.yaml");
  EXPECT_TRUE(node_.wait_gone("vol"));
  EXPECT_TRUE(node_.has_event("vol", "BackendKept"));
  EXPECT_TRUE(fs::exists(file("vol")));
  EXPECT_TRUE(fs::exists(file("saved")));
}

TEST_F(SpecChangeTest, AfterTheDeadlineFailDeviceEndsWaitingIoAndKeepWaitingWaits) {
  const std::string deadline = "3s";
  const auto with = [&](const std::string& mode, const std::string& action) {
    return mode + "\n    deadline: " + deadline + "\n    onDeadline: " + action;
  };
  make_volume({.name = "fail", .mode = with("Reissue", "FailDevice"), .size = "4Mi"});
  make_volume({.name = "wait", .mode = with("Reissue", "KeepWaiting"), .size = "4Mi"});
  std::optional<Disk> fail(node_.device("fail"));
  const Disk wait(node_.device("wait"));

  node_.kill_spawner();  // and its servers, and nobody can start others
  const auto killed = std::chrono::steady_clock::now();
  auto failing = fail->start_write(1, 9);
  auto waiting = wait.start_write(1, 9);
  EXPECT_FALSE(done(failing, 1500ms)) << "until the deadline it waits";
  EXPECT_EQ(failing.get(), EIO);
  EXPECT_GE(std::chrono::steady_clock::now() - killed, 2900ms);
  EXPECT_TRUE(node_.wait("fail", "said to be failed",
                         [&](const auto&) { return node_.has_event("fail", "Stopped"); }));
  EXPECT_FALSE(done(waiting, 2s)) << "KeepWaiting: however long";
  fail.reset();

  node_.start_spawner();
  ASSERT_TRUE(node_.wait_ready("fail"));
  ASSERT_TRUE(node_.wait_ready("wait"));
  EXPECT_EQ(waiting.get(), 0);
  EXPECT_EQ(wait.verify(1, 9), 0);
  const Disk again(node_.device("fail"));
  EXPECT_EQ(again.verify_range(0, known_blocks, known_version), 0)
      << "the failed write never got there";
}

}  // namespace
}  // namespace ublk_operator::lab

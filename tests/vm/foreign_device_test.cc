// Other programs' ublk devices: whatever their id, whatever they are marked with, and whatever our
// own files say, they are not ours.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <map>
#include <memory>
#include <string>

#include "common/base/limits.h"
#include "node/agent/state_store.h"
#include "tests/contract/real_server.h"
#include "tests/vm/disk.h"
#include "tests/vm/lab_node.h"

namespace ublk_operator::lab {
namespace {

const CallLimit limit{limits::command_deadline, -1};

class ForeignDevices {
 public:
  ForeignDevices() {
    auto opened = open_control_device();
    EXPECT_TRUE(opened.ok());
    control_ = std::move(*opened);
  }
  ~ForeignDevices() {
    server_.reset();
    for (const auto& [id, info] : before_) {
      (void)control_->stop(id, limit);
      (void)control_->remove_async(id, limit);
    }
  }
  ForeignDevices(const ForeignDevices&) = delete;
  ForeignDevices& operator=(const ForeignDevices&) = delete;

  DeviceId add(DeviceId id, uint64_t identity, uint64_t wanted_flags = 0) {
    AddRequest request;
    request.id = id;
    request.identity = identity;
    request.flags = wanted_flags;
    request.geometry.queue_depth = depth;
    request.geometry.max_io_bytes = 64 << 10;
    request.geometry.size_bytes = 1 << 20;
    auto added = control_->add(request, limit);
    EXPECT_TRUE(added.ok()) << added.error().to_string();
    if (!added) return AddRequest::any_id;
    EXPECT_TRUE(control_->set_params(added->id, request.geometry, limit).ok());
    before_[added->id] = *added;
    return added->id;
  }
  void serve(DeviceId id) {
    server_ = contract::spawn_real_server();
    ASSERT_TRUE(server_);
    ASSERT_TRUE(server_->open_char(id).ok());
    ASSERT_TRUE(server_->map().ok());
    for (uint16_t tag = 0; tag < depth; ++tag) ASSERT_TRUE(server_->fetch(0, tag).ok());
    const auto started = control_->start(id, server_->pid(), limit);
    ASSERT_TRUE(started.ok()) << started.error().to_string();
  }
  void remember() {
    for (auto& [id, info] : before_) {
      info = look(id);
      files_[id] = files(id);
    }
  }
  void expect_untouched() {
    for (const auto& [id, info] : before_) {
      EXPECT_EQ(look(id), info) << object_name(id) << " was touched";
      EXPECT_EQ(files(id), files_[id]) << object_name(id) << " has other owners or modes";
    }
  }
  [[nodiscard]] bool has(DeviceId id) const { return before_.contains(id); }
  [[nodiscard]] ControlDevice& control() { return *control_; }

 private:
  static constexpr uint16_t depth = 4;
  DeviceInfo look(DeviceId id) {
    auto info = control_->info(id, limit);
    EXPECT_TRUE(info.ok()) << info.error().to_string();
    return info ? *info : DeviceInfo{};
  }
  static std::string files(DeviceId id) {
    return shell_output("stat -c '%n %a %u %g %i' " + char_path(id) + " " + block_path(id));
  }
  std::unique_ptr<ControlDevice> control_;
  std::unique_ptr<contract::Server> server_;
  std::map<DeviceId, DeviceInfo> before_;
  std::map<DeviceId, std::string> files_;
};

class ForeignDeviceTest : public ::testing::Test {
 protected:
  static void rewrite_lease(LabNode& node, const std::string& volume, DeviceId device,
                            pid_t holder) {
    auto store = StateStore::open(node.dir("state"), node.dir("run"));
    ASSERT_TRUE(store.ok()) << store.error().to_string();
    Lease lease = (*store)->load_lease(volume).value_or(Lease{});
    lease.device = device;
    lease.step = LeaseStep::serving;
    lease.holder_pid = holder;
    ASSERT_TRUE((*store)->save_lease(volume, lease).ok());
  }
};

TEST_F(ForeignDeviceTest, IsNeverTouched) {
  ForeignDevices foreign;
  LabNode node({.start = false});
  ASSERT_EQ(foreign.add(0, 0), 0U);
  ASSERT_EQ(foreign.add(5, 0x1234567890abcdef, flags::user_recovery), 5U);
  foreign.serve(5);
  // Another node's agent, of a shared machine or a former life: our mark, but no volume of ours.
  const DeviceId other_node = foreign.add(AddRequest::any_id, 0x7562'0123'4567'89abULL);
  ASSERT_NE(other_node, AddRequest::any_id);
  foreign.remember();

  node.start_spawner();
  node.start_agent();
  node.apply({.name = "a", .size = "16Mi"});
  node.apply({.name = "b", .mode = "None", .size = "16Mi"});
  for (const auto& name : {"a", "b"}) {
    ASSERT_TRUE(node.wait_ready(name));
    EXPECT_FALSE(foreign.has(*node.get(name).status.device_id));
    node.kill_server(name);
    ASSERT_TRUE(node.wait_recovered(name, 0));
    EXPECT_FALSE(foreign.has(*node.get(name).status.device_id));
  }
  foreign.expect_untouched();

  // A lease that names a foreign device: ours is known by its mark, not by what a file says.
  const DeviceId ours = *node.get("a").status.device_id;
  const Disk disk(node.device("a"));
  ASSERT_EQ(disk.write(1, 1), 0);
  const pid_t holder = node.server_pid("a");
  node.kill_agent();
  rewrite_lease(node, "a", 5, holder);
  node.start_agent();
  ASSERT_TRUE(node.wait_ready("a"));
  EXPECT_EQ(node.get("a").status.device_id, ours);
  EXPECT_EQ(disk.verify(1, 1), 0);
  foreign.expect_untouched();

  // The same, and the volume's own device is gone meanwhile.
  const DeviceId gone = *node.get("b").status.device_id;
  node.kill_agent();
  node.kill_spawner();  // and all servers
  ASSERT_TRUE(foreign.control().stop(gone, limit).ok());
  ASSERT_TRUE(foreign.control().remove(gone, limit).ok());
  rewrite_lease(node, "b", 5, -1);
  rewrite_lease(node, "ghost", 0, -1);  // of a volume that nobody knows
  node.start_spawner();
  node.start_agent();
  ASSERT_TRUE(node.wait_ready("a"));
  ASSERT_TRUE(node.wait_ready("b"));
  EXPECT_FALSE(foreign.has(*node.get("b").status.device_id));
  foreign.expect_untouched();

  ASSERT_TRUE(node.api().stop("a", true, true).ok());
  for (const auto& name : {"a", "b"}) {
    node.remove_manifest(std::string(name) + ".yaml");
    ASSERT_TRUE(node.wait_gone(name));
  }
  node.terminate_agent();
  foreign.expect_untouched();
  EXPECT_EQ(shell("dd if=/dev/ublkb5 of=/dev/null bs=4k count=16 iflag=direct status=none"), 0)
      << "the other program's disk works as before";
}

}  // namespace
}  // namespace ublk_operator::lab

// The control device's contract on the kernel of this machine. Needs root and ublk_drv.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <thread>

#include "common/base/files.h"
#include "tests/contract/control_device_contract.h"
#include "tests/contract/real_server.h"

namespace ublk_operator::contract {
namespace {

constexpr auto request_timeout = 1000ms;

// A read may hang until the device is stopped, and nothing wakes it before: each has a thread of
// its own, which is joined only when the case's devices are gone.
using Readers = std::vector<std::thread>;

class RealDisk final : public Disk {
 public:
  RealDisk(UniqueFd file, Readers& readers)
      : file_(std::make_shared<UniqueFd>(std::move(file))), readers_(readers) {}

  std::shared_future<int> read() override {
    std::promise<int> done;
    std::shared_future<int> result = done.get_future().share();
    readers_.emplace_back([file = file_, done = std::move(done)]() mutable {
      constexpr size_t bytes = 4096;
      void* buffer = std::aligned_alloc(bytes, bytes);
      const ssize_t got = ::pread(file->get(), buffer, bytes, 0);
      int err = got < 0 ? errno : EPROTO;
      if (got == 0) err = end_of_disk;
      if (got == static_cast<ssize_t>(bytes)) err = 0;
      std::free(buffer);
      file.reset();  // who waits for the read may count on the disk being closed
      done.set_value(err);
    });
    return result;
  }

 private:
  std::shared_ptr<UniqueFd> file_;
  Readers& readers_;
};

class RealKernel final : public Kernel {
 public:
  RealKernel(std::unique_ptr<ControlDevice> control, bool is_7_2)
      : control_(std::move(control)), is_7_2_(is_7_2) {}
  RealKernel(const RealKernel&) = delete;
  RealKernel& operator=(const RealKernel&) = delete;
  ~RealKernel() override {
    for (std::thread& reader : readers_) reader.join();
  }

  ControlDevice& control() override { return *control_; }
  std::unique_ptr<ControlDevice> another_control() override {
    Result<std::unique_ptr<ControlDevice>> device = open_control_device();
    return std::move(device).value();
  }
  bool is_7_2() override { return is_7_2_; }
  std::unique_ptr<Server> spawn_server() override { return spawn_real_server(); }

  Result<std::unique_ptr<Disk>> open_disk(DeviceId id) override {
    const std::string path = block_path(id);
    UniqueFd file(::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC));
    if (!file.valid()) return errno_error("open", path);
    return std::unique_ptr<Disk>(std::make_unique<RealDisk>(std::move(file), readers_));
  }
  void shorten_request_timeout(DeviceId id) override {
    const std::string path = "/sys/block/ublkb" + std::to_string(id) + "/queue/io_timeout";
    const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
    ASSERT_TRUE(file.valid()) << path;
    const Result<void> written =
        write_all(file.get(), std::to_string(request_timeout.count()), path);
    EXPECT_TRUE(written) << written.error().to_string();
  }
  void let_requests_time_out(DeviceId) override {}  // the timer runs
  [[nodiscard]] std::chrono::milliseconds a_while() const override { return 250ms; }
  std::string crash() override { return ""; }  // the lab reads the kernel's log

 private:
  std::unique_ptr<ControlDevice> control_;
  bool is_7_2_;
  Readers readers_;
};

std::unique_ptr<Kernel> make_kernel() {
  Result<std::unique_ptr<ControlDevice>> control = open_control_device();
  if (!control) {
    ADD_FAILURE() << control.error().to_string();
    return nullptr;
  }
  const Result<uint64_t> features = (*control)->features(CallLimit{});
  if (!features) {
    ADD_FAILURE() << features.error().to_string();
    return nullptr;
  }
  const bool is_7_2 = (*features & flags::safe_stop_dev) != 0;
  return std::make_unique<RealKernel>(std::move(control).value(), is_7_2);
}

INSTANTIATE_TEST_SUITE_P(Kernel, ControlContract,
                         ::testing::Values(KernelUnderTest{"Real", &make_kernel}),
                         [](const auto& param_info) { return std::string(param_info.param.name); });

}  // namespace
}  // namespace ublk_operator::contract

// The control device's contract on the fake, as both kernels.
#include <algorithm>
#include <mutex>
#include <thread>

#include "node/ublk/fake_control_device.h"
#include "tests/contract/control_device_contract.h"

namespace ublk_operator::contract {
namespace {

// Serves on a thread of its own, as a process would.
class FakeServerProcess final : public Server {
 public:
  explicit FakeServerProcess(FakeServer server) : server_(std::move(server)) {
    Result<EventFd> event = EventFd::create();
    end_ = std::make_unique<EventFd>(std::move(event).value());
    thread_ = std::thread([this] { run(); });
  }
  ~FakeServerProcess() override { stop_thread(); }

  [[nodiscard]] pid_t pid() const override { return server_.pid(); }
  [[nodiscard]] int pidfd() const override { return server_.pidfd(); }
  Result<void> open_char(DeviceId id) override { return server_.open_char(id); }
  Result<void> map() override { return server_.map(); }
  Result<void> fetch(uint16_t queue, uint16_t tag) override { return server_.fetch(queue, tag); }

  void hold(bool on) override {
    std::vector<FakeDelivery> release;
    {
      const std::lock_guard<std::mutex> guard(mutex_);
      hold_ = on;
      if (!on) release.swap(held_);
    }
    for (const FakeDelivery& request : release)
      EXPECT_TRUE(server_.commit(request.queue, request.tag, 0));
  }
  bool holds(unsigned requests) override {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, soon, [&] { return held_.size() >= requests; });
  }
  bool sees_abort(std::chrono::milliseconds time) override {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, time, [&] { return aborted_; });
  }
  std::shared_ptr<void> copy_char() override {
    return std::make_shared<FakeCharCopy>(server_.copy_char());
  }
  void leave() override { server_.close_char(); }
  void kill() override {
    stop_thread();
    server_.kill();
  }
  void reap() override { server_.reap(); }

 private:
  void run() {
    for (;;) {
      const Result<FakeDelivery> next = server_.next(CallLimit{1h, end_->fd()});
      if (!next) return;
      std::unique_lock<std::mutex> lock(mutex_);
      if (next->aborted) {
        aborted_ = true;
      } else if (hold_) {
        held_.push_back(*next);
      } else {
        lock.unlock();
        EXPECT_TRUE(server_.commit(next->queue, next->tag, 0));
        continue;
      }
      changed_.notify_all();
    }
  }
  void stop_thread() {
    end_->signal();
    if (thread_.joinable()) thread_.join();
  }

  FakeServer server_;
  std::unique_ptr<EventFd> end_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool hold_ = false;
  bool aborted_ = false;
  std::vector<FakeDelivery> held_;
  std::thread thread_;
};

class FakeDisk final : public Disk {
 public:
  explicit FakeDisk(FakeBlockFile file) : file_(std::move(file)) {}
  std::shared_future<int> read() override { return file_.submit(FakeIo{}).share(); }

 private:
  FakeBlockFile file_;
};

class Fake final : public Kernel {
 public:
  explicit Fake(FakePersonality personality)
      : personality_(personality), kernel_(personality), control_(kernel_.open_control()) {}

  ControlDevice& control() override { return *control_; }
  std::unique_ptr<ControlDevice> another_control() override { return kernel_.open_control(); }
  bool is_7_2() override { return personality_ == FakePersonality::linux_7_2; }
  std::unique_ptr<Server> spawn_server() override {
    return std::make_unique<FakeServerProcess>(kernel_.spawn_server());
  }
  Result<std::unique_ptr<Disk>> open_disk(DeviceId id) override {
    Result<FakeBlockFile> file = kernel_.open_block(id);
    if (!file) return std::move(file).error();
    return std::unique_ptr<Disk>(std::make_unique<FakeDisk>(std::move(file).value()));
  }
  void shorten_request_timeout(DeviceId) override {}
  void let_requests_time_out(DeviceId id) override { kernel_.fire_request_timeout(id); }
  [[nodiscard]] std::chrono::milliseconds a_while() const override { return 30ms; }
  std::string crash() override { return kernel_.crash(); }

 private:
  FakePersonality personality_;
  FakeKernel kernel_;
  std::unique_ptr<ControlDevice> control_;
};

template <FakePersonality personality>
std::unique_ptr<Kernel> make_fake() {
  return std::make_unique<Fake>(personality);
}

INSTANTIATE_TEST_SUITE_P(
    Fake, ControlContract,
    ::testing::Values(KernelUnderTest{"Linux72", &make_fake<FakePersonality::linux_7_2>},
                      KernelUnderTest{"Linux612", &make_fake<FakePersonality::linux_6_12>}),
    [](const auto& param_info) { return std::string(param_info.param.name); });

}  // namespace
}  // namespace ublk_operator::contract

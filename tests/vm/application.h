// Application: a program that uses a volume and goes on, whatever is done to the volume meanwhile.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>

#include "tests/vm/disk.h"
#include "tests/vm/lab_node.h"

namespace ublk_operator::lab {

// An application that goes on: writes block after block, verifies what it wrote, and counts what
// failed.
class Application {
 public:
  // `pause` between two writes: for a test that looks at something else.
  explicit Application(const std::string& device,
                       std::chrono::milliseconds pause = std::chrono::milliseconds(0))
      : disk_(device), pause_(pause), thread_([this] { run(); }) {}
  ~Application() { stop(); }
  Application(const Application&) = delete;
  Application& operator=(const Application&) = delete;

  void stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  [[nodiscard]] uint64_t writes() const { return writes_; }
  [[nodiscard]] uint64_t errors() const { return errors_; }
  // Waits until it got `n` further writes done: the volume works.
  [[nodiscard]] bool progress(uint64_t n) const {
    const uint64_t goal = writes_ + n;
    const auto deadline = std::chrono::steady_clock::now() + patience;
    while (writes_ < goal && std::chrono::steady_clock::now() < deadline)
      std::this_thread::sleep_for(1ms);
    return writes_ >= goal;
  }
  // Every acknowledged write, read back.
  [[nodiscard]] int verify_all() const {
    for (uint64_t block = 0; block < blocks; ++block) {
      if (versions_[block] == 0) continue;
      if (const int err = disk_.verify(block, versions_[block]); err != 0) return err;
    }
    return 0;
  }

 private:
  static constexpr uint64_t blocks = 512;
  void run() {
    for (uint64_t n = 0; !stop_; ++n) {
      const uint64_t block = n * 7 % blocks;
      const uint64_t version = n + 1;
      int err = disk_.write(block, version);
      if (err == 0) {
        versions_[block] = version;
        ++writes_;
        err = disk_.verify(block, version);
      } else {
        versions_[block] = 0;  // unknown: either version may be there
      }
      if (err != 0) ++errors_;
      if (pause_.count() != 0) std::this_thread::sleep_for(pause_);
    }
  }
  Disk disk_;
  const std::chrono::milliseconds pause_;
  uint64_t versions_[blocks] = {};
  std::atomic<uint64_t> writes_ = 0;
  std::atomic<uint64_t> errors_ = 0;
  std::atomic<bool> stop_ = false;
  std::thread thread_;
};

}  // namespace ublk_operator::lab

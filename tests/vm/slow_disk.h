// SlowDisk: a disk below a pool that holds one write back, as long as a test wants, while it serves
// everything else: the kernel's nbd driver with this process as its server. So a write that a dead
// ublk-server has left behind can be made as late as needed, and newer ones overtake it if they
// may. Needs root and nbd.
// Threads  any.
#pragma once
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/base/unique_fd.h"

namespace ublk_operator::lab {

class SlowDisk {
 public:
  explicit SlowDisk(uint64_t bytes);  // a test failure when there is no nbd
  ~SlowDisk();                        // nobody may have it open any more
  SlowDisk(const SlowDisk&) = delete;
  SlowDisk& operator=(const SlowDisk&) = delete;

  [[nodiscard]] const std::string& path() const { return path_; }
  // The next write that begins with this content is not done until release(); only that one.
  void hold_next(std::vector<std::byte> content);
  [[nodiscard]] bool wait_held();
  // The held write reaches the medium now.
  void release();

 private:
  struct Request {
    char cookie[8];
    uint64_t offset = 0;
    std::vector<std::byte> data;
  };
  void serve();
  void reply(const char (&cookie)[8], uint32_t error, const std::byte* data, size_t bytes);
  void apply(const Request& request);

  std::string path_;
  std::vector<std::byte> medium_;
  UniqueFd device_;
  UniqueFd socket_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::byte> wanted_;  // under mutex_; empty: nothing is to be held
  std::optional<Request> held_;    // under mutex_
  std::thread server_;
  std::thread driver_;
};

// A file system on a slow disk, for a pool: a test failure when it cannot be made or unmounted.
class SlowPool {
 public:
  explicit SlowPool(const SlowDisk& disk);
  ~SlowPool();
  SlowPool(const SlowPool&) = delete;
  SlowPool& operator=(const SlowPool&) = delete;
  [[nodiscard]] static std::string path() { return "/tmp/slow-pool"; }
};

}  // namespace ublk_operator::lab

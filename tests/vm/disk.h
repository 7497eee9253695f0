// Disk: the application's side of a volume in a test: O_DIRECT reads and writes, each in a thread
// of its own so that a test can hold them in flight, and the number of requests that the kernel has
// in flight.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <string>
#include <vector>

#include "common/base/unique_fd.h"

namespace ublk_operator::lab {

// A block's content that tells where it belongs and which version it is, so that a wrong one is
// known by sight.
[[nodiscard]] std::vector<std::byte> pattern(uint64_t block, uint64_t version, size_t bytes);

class Disk {
 public:
  static constexpr size_t block_bytes = 4096;

  explicit Disk(const std::string& path);  // a test failure when it cannot be opened
  [[nodiscard]] bool open() const { return fd_.valid(); }

  // 0 or an errno.
  [[nodiscard]] int write(uint64_t block, uint64_t version) const;
  [[nodiscard]] int write_range(uint64_t first_block, uint64_t blocks, uint64_t version) const;
  // 0, an errno, or EILSEQ when the block holds something else.
  [[nodiscard]] int verify(uint64_t block, uint64_t version) const;
  [[nodiscard]] int verify_range(uint64_t first_block, uint64_t blocks, uint64_t version) const;
  [[nodiscard]] int flush() const;

  // Under way until the future is ready. `cpu` < 0: anywhere; else the thread runs there, and so
  // uses that CPU's queue.
  [[nodiscard]] std::future<int> start_write(uint64_t block, uint64_t version, int cpu = -1) const;
  [[nodiscard]] std::future<int> start_verify(uint64_t block, uint64_t version, int cpu = -1) const;

  // Requests that the block layer has given to the driver and not got back (sysfs inflight), reads
  // and writes.
  [[nodiscard]] unsigned in_flight() const;
  [[nodiscard]] bool wait_in_flight(unsigned at_least) const;

 private:
  std::string name_;  // ublkb3
  UniqueFd fd_;
};

[[nodiscard]] inline bool done(const std::future<int>& io,
                               std::chrono::milliseconds within = std::chrono::milliseconds(0)) {
  return io.wait_for(within) == std::future_status::ready;
}

}  // namespace ublk_operator::lab

#include "tests/vm/disk.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

namespace ublk_operator::lab {

namespace {

using namespace std::chrono_literals;

struct AlignedFree {
  void operator()(std::byte* p) const { std::free(p); }  // NOLINT(cppcoreguidelines-no-malloc)
};
using Buffer = std::unique_ptr<std::byte, AlignedFree>;

Buffer make_buffer(size_t bytes) {
  return Buffer(static_cast<std::byte*>(std::aligned_alloc(4096, bytes)));
}

void fill(std::byte* at, uint64_t block, uint64_t version, size_t bytes) {
  uint64_t state = block * 0x9e3779b97f4a7c15ULL ^ version * 0xc2b2ae3d27d4eb4fULL;
  for (size_t i = 0; i < bytes; i += 8) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    std::memcpy(at + i, &state, 8);
  }
  std::memcpy(at, &block, 8);
  std::memcpy(at + 8, &version, 8);
}

int transfer(int fd, std::byte* buffer, size_t bytes, uint64_t offset, bool write) {
  const auto at = static_cast<off_t>(offset);
  const ssize_t n = write ? ::pwrite(fd, buffer, bytes, at) : ::pread(fd, buffer, bytes, at);
  if (n < 0) return errno;
  return static_cast<size_t>(n) == bytes ? 0 : ENODATA;
}

void pin(int cpu) {
  if (cpu < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

}  // namespace

std::vector<std::byte> pattern(uint64_t block, uint64_t version, size_t bytes) {
  std::vector<std::byte> data(bytes);
  fill(data.data(), block, version, bytes);
  return data;
}

Disk::Disk(const std::string& path) {
  std::error_code failed;
  name_ = std::filesystem::canonical(path, failed).filename().string();
  fd_.reset(::open(path.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
  EXPECT_TRUE(fd_.valid()) << path << ": " << std::strerror(errno);
}

int Disk::write(uint64_t block, uint64_t version) const { return write_range(block, 1, version); }

int Disk::write_range(uint64_t first_block, uint64_t blocks, uint64_t version) const {
  constexpr uint64_t batch = 32;
  const Buffer buffer = make_buffer(batch * block_bytes);
  for (uint64_t done = 0; done < blocks;) {
    const uint64_t n = std::min(batch, blocks - done);
    for (uint64_t i = 0; i < n; ++i)
      fill(buffer.get() + i * block_bytes, first_block + done + i, version, block_bytes);
    const int err = transfer(fd_.get(), buffer.get(), n * block_bytes,
                             (first_block + done) * block_bytes, true);
    if (err != 0) return err;
    done += n;
  }
  return 0;
}

int Disk::verify(uint64_t block, uint64_t version) const { return verify_range(block, 1, version); }

int Disk::verify_range(uint64_t first_block, uint64_t blocks, uint64_t version) const {
  constexpr uint64_t batch = 32;
  const Buffer buffer = make_buffer(batch * block_bytes);
  const Buffer wanted = make_buffer(block_bytes);
  for (uint64_t done = 0; done < blocks;) {
    const uint64_t n = std::min(batch, blocks - done);
    const int err = transfer(fd_.get(), buffer.get(), n * block_bytes,
                             (first_block + done) * block_bytes, false);
    if (err != 0) return err;
    for (uint64_t i = 0; i < n; ++i) {
      fill(wanted.get(), first_block + done + i, version, block_bytes);
      if (std::memcmp(buffer.get() + i * block_bytes, wanted.get(), block_bytes) != 0)
        return EILSEQ;
    }
    done += n;
  }
  return 0;
}

int Disk::flush() const { return ::fdatasync(fd_.get()) == 0 ? 0 : errno; }

std::future<int> Disk::start_write(uint64_t block, uint64_t version, int cpu) const {
  return std::async(std::launch::async, [this, block, version, cpu] {
    pin(cpu);
    return write(block, version);
  });
}

std::future<int> Disk::start_verify(uint64_t block, uint64_t version, int cpu) const {
  return std::async(std::launch::async, [this, block, version, cpu] {
    pin(cpu);
    return verify(block, version);
  });
}

unsigned Disk::in_flight() const {
  std::ifstream file("/sys/block/" + name_ + "/inflight");
  unsigned reads = 0;
  unsigned writes = 0;
  file >> reads >> writes;
  return reads + writes;
}

bool Disk::wait_in_flight(unsigned at_least) const {
  // The block layer has no event for it.
  for (int i = 0; i < 5000; ++i) {
    if (in_flight() >= at_least) return true;
    std::this_thread::sleep_for(2ms);
  }
  ADD_FAILURE() << "only " << in_flight() << " of " << at_least << " requests got in flight";
  return false;
}

}  // namespace ublk_operator::lab

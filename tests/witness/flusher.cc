// ublk-flusher: writes a part of a disk over and over, flushes it after each round, and says so
// once the flush is acknowledged. Whoever read such a line before the power went off knows what
// must be there afterwards.
//
//   ublk-flusher write --device /dev/ublk/by-name/pgdata
//   flushed 1
//   flushed 2                                   without an end; exit status 1 at the first error
//   ublk-flusher verify --device /dev/ublk/by-name/pgdata --flushed 2
//   blocks=256 newer=17 lost=0                  exit status 1 if any is lost
//
// Writes are O_DIRECT: what was not flushed is on the disk or in the disk's cache, not in this
// machine's. After a cut a block holds the round of the last flush or a newer one that was under
// way; lost counts all others, torn ones too.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>

#include "CLI/CLI.hpp"
#include "common/base/unique_fd.h"
#include "tests/witness/block.h"

namespace ublk_operator {
namespace {

struct Options {
  std::string device;
  unsigned mib = 1;
  unsigned rate = 500;
  uint64_t flushed = 0;
};

struct Free {
  void operator()(std::byte* data) const {
    std::free(data);
  }  // NOLINT(cppcoreguidelines-no-malloc)
};
using Buffer = std::unique_ptr<std::byte, Free>;
Buffer aligned_block() {
  return Buffer(static_cast<std::byte*>(std::aligned_alloc(block_bytes, block_bytes)));
}

int fail(const char* operation, const Options& options) {
  std::fprintf(stderr, "ublk-flusher: %s %s: %s\n", operation, options.device.c_str(),
               std::strerror(errno));
  return 1;
}

int write_rounds(int fd, const Options& options) {
  const uint64_t blocks = (uint64_t{options.mib} << 20) / block_bytes;
  const Buffer buffer = aligned_block();
  for (uint64_t round = 1;; ++round) {
    for (uint64_t block = 0; block < blocks; ++block) {
      fill(buffer.get(), block, round);
      errno = EIO;
      if (::pwrite(fd, buffer.get(), block_bytes, static_cast<off_t>(block * block_bytes)) !=
          static_cast<ssize_t>(block_bytes))
        return fail("write", options);
      // The machine is also others'.
      std::this_thread::sleep_for(std::chrono::microseconds(1'000'000 / options.rate));
    }
    if (::fdatasync(fd) < 0) return fail("flush", options);
    std::printf("flushed %" PRIu64 "\n", round);
    if (std::fflush(stdout) != 0) return fail("report on", options);
  }
}

int verify(int fd, const Options& options) {
  const uint64_t blocks = (uint64_t{options.mib} << 20) / block_bytes;
  const Buffer buffer = aligned_block();
  const Buffer wanted = aligned_block();
  uint64_t newer = 0;
  uint64_t lost = 0;
  for (uint64_t block = 0; block < blocks; ++block) {
    errno = EIO;
    if (::pread(fd, buffer.get(), block_bytes, static_cast<off_t>(block * block_bytes)) !=
        static_cast<ssize_t>(block_bytes))
      return fail("read", options);
    uint64_t words[2];  // block and version, see fill()
    std::memcpy(words, buffer.get(), sizeof words);
    const uint64_t version = words[1];
    fill(wanted.get(), block, version);
    if (version < options.flushed || std::memcmp(buffer.get(), wanted.get(), block_bytes) != 0) {
      ++lost;
      std::fprintf(stderr,
                   "block %" PRIu64 " says it is block %" PRIu64 ", round %" PRIu64
                   ", or is torn; round %" PRIu64 " was flushed\n",
                   block, words[0], version, options.flushed);
    } else if (version > options.flushed) {
      ++newer;
    }
  }
  std::printf("blocks=%" PRIu64 " newer=%" PRIu64 " lost=%" PRIu64 "\n", blocks, newer, lost);
  return lost == 0 ? 0 : 1;
}

int flusher_main(int argc, char** argv) {
  Options options;
  CLI::App app{"writes and flushes a disk, and verifies it after a power cut"};
  app.require_subcommand(1);
  app.fallthrough();
  app.add_option("--device", options.device, "block device")->required();
  app.add_option("--mib", options.mib, "how much of it to use")
      ->capture_default_str()
      ->check(CLI::Range(1U, 1024U));
  auto* writer = app.add_subcommand("write", "write and flush, round after round");
  writer->add_option("--rate", options.rate, "writes a second, at most")
      ->capture_default_str()
      ->check(CLI::Range(1U, 1'000'000U));
  auto* verifier = app.add_subcommand("verify", "look for what was flushed");
  verifier->add_option("--flushed", options.flushed, "the last round that was said to be flushed")
      ->required();
  CLI11_PARSE(app, argc, argv);
  const int mode = *writer ? O_RDWR : O_RDONLY;
  const UniqueFd fd(::open(options.device.c_str(), mode | O_DIRECT | O_CLOEXEC));
  struct stat info{};
  if (!fd.valid() || ::fstat(fd.get(), &info) < 0) return fail("open", options);
  if (!S_ISBLK(info.st_mode)) {
    errno = ENOTBLK;
    return fail("use", options);
  }
  return *writer ? write_rounds(fd.get(), options) : verify(fd.get(), options);
}

}  // namespace
}  // namespace ublk_operator

int main(int argc, char** argv) { return ublk_operator::flusher_main(argc, argv); }

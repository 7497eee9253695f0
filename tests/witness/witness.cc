// ublk-witness: an application that is there when the server of its disk is killed. It keeps
// requests in flight, sends SIGKILL, and says what became of the requests in flight, of new ones,
// for how long nothing was completed, and whether every acknowledged byte is there afterwards.
//
//   ublk-witness --device /dev/ublk/by-name/x --kill PID --mib 256 --name Reissue
//   Reissue  in-flight: reissued  new: waited  errors: 0  pause: 41 ms  verified: 256 MiB
//
// With --pause-only it prints the pause in milliseconds and nothing else (for measurements: reads
// of 4 KiB). A request that fails is followed by the next one a millisecond later.
// The pause is the longest time, from the kill on, between two completed requests of the whole
// application.
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "common/base/pidfd.h"
#include "common/base/unique_fd.h"
#include "tests/witness/block.h"

namespace ublk_operator {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr size_t chunk_bytes = 1 << 20;  // for filling and verifying
constexpr auto give_up = 60s;
constexpr auto retry_pause = 1ms;

struct Options {
  std::string device;
  std::string name;
  int pid = -1;
  unsigned mib = 64;
  unsigned threads = 16;
  size_t request_bytes = 16384;
  bool pause_only = false;
  bool reopen = false;  // mode None: the disk goes, a new one comes under the same name
};

struct Aligned {
  explicit Aligned(size_t bytes) : data(static_cast<std::byte*>(std::aligned_alloc(4096, bytes))) {
    std::memset(data, 0, bytes);
  }
  ~Aligned() { std::free(data); }  // NOLINT(cppcoreguidelines-no-malloc)
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  std::byte* data;
};

struct Completed {
  Clock::time_point started;
  Clock::time_point ended;
  int err = 0;
};

// What an application sees of read() or write(): a short transfer is an error too.
int error_of(ssize_t transferred, size_t wanted) {
  if (transferred < 0) return errno;
  return static_cast<size_t>(transferred) == wanted ? 0 : EIO;
}

class Witness {
 public:
  explicit Witness(Options options)
      : options_(std::move(options)),
        blocks_((uint64_t{options_.mib} << 20) / block_bytes),
        versions_(blocks_, 1),
        log_(options_.threads) {}

  int run() {
    if (!open()) return 1;
    if (!options_.pause_only && !fill_all()) return 1;
    start_threads();
    if (!wait_completions(uint64_t{options_.threads} * 4)) return fail("the device does no I/O");
    const auto killed = kill_server();
    if (!killed) return 1;
    killed_ = *killed;
    if (options_.reopen) {
      stop_threads();
      try_old_disk();
      if (!reopen()) return fail("no new device came under the name");
      start_threads();
    }
    const bool went_on = wait_successes_after_kill();
    stop_threads();
    if (!went_on) return fail("no request completed within a minute of the kill");
    if (options_.pause_only) {
      std::printf("%.2f\n", pause_ms());
      return 0;
    }
    if (!rewrite_uncertain()) return 1;
    const uint64_t verified = verify_all();
    report(verified);
    return verified == blocks_ ? 0 : 1;
  }

 private:
  static int fail(const char* why) {
    std::fprintf(stderr, "ublk-witness: %s\n", why);
    return 1;
  }

  bool open() {
    fd_.reset(::open(options_.device.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
    struct stat info{};
    if (!fd_.valid() || ::fstat(fd_.get(), &info) < 0) {
      std::fprintf(stderr, "ublk-witness: open %s: %s\n", options_.device.c_str(),
                   std::strerror(errno));
      return false;
    }
    number_ = info.st_rdev;
    return true;
  }

  // What becomes of new I/O on a disk whose server is dead.
  void try_old_disk() {
    const Aligned buffer(block_bytes);
    Completed done;
    done.started = Clock::now();
    const ssize_t n = ::pread(fd_.get(), buffer.data, block_bytes, 0);
    done.ended = Clock::now();
    done.err = error_of(n, block_bytes);
    log_[0].push_back(done);
  }

  // The new disk of the same name has another number; its link appears when it is ready.
  bool reopen() {
    const auto until = Clock::now() + give_up;
    while (Clock::now() < until) {
      struct stat info{};
      if (::stat(options_.device.c_str(), &info) == 0 && info.st_rdev != number_) {
        fd_.reset(::open(options_.device.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
        if (fd_.valid()) return true;
      }
      std::this_thread::sleep_for(
          1ms);  // a measuring program: finer than an event through three processes
    }
    return false;
  }

  bool fill_all() {
    const Aligned buffer(chunk_bytes);
    for (uint64_t block = 0; block < blocks_; block += chunk_bytes / block_bytes) {
      for (uint64_t i = 0; i < chunk_bytes / block_bytes; ++i)
        fill(buffer.data + i * block_bytes, block + i, 1);
      if (::pwrite(fd_.get(), buffer.data, chunk_bytes, static_cast<off_t>(block * block_bytes)) !=
          static_cast<ssize_t>(chunk_bytes)) {
        std::fprintf(stderr, "ublk-witness: fill %s: %s\n", options_.device.c_str(),
                     std::strerror(errno));
        return false;
      }
    }
    return true;
  }

  void start_threads() {
    stop_ = false;
    for (unsigned i = 0; i < options_.threads; ++i) threads_.emplace_back([this, i] { work(i); });
  }
  void stop_threads() {
    stop_ = true;
    for (auto& thread : threads_) thread.join();
    threads_.clear();
  }

  // Each thread owns every threads-th group of blocks, so that no two write one block.
  void work(unsigned me) {
    const size_t bytes = options_.pause_only ? block_bytes : options_.request_bytes;
    const uint64_t per_request = bytes / block_bytes;
    const uint64_t groups = blocks_ / per_request;
    const Aligned buffer(bytes);
    uint64_t group = me;
    while (!stop_) {
      const uint64_t first = group * per_request;
      const auto offset = static_cast<off_t>(first * block_bytes);
      Completed done;
      ssize_t n = 0;
      if (options_.pause_only) {
        done.started = Clock::now();
        n = ::pread(fd_.get(), buffer.data, bytes, offset);
      } else {
        const uint64_t version = next_version_++;
        for (uint64_t i = 0; i < per_request; ++i)
          fill(buffer.data + i * block_bytes, first + i, version);
        for (uint64_t i = 0; i < per_request; ++i) versions_[first + i] = uncertain;
        done.started = Clock::now();
        n = ::pwrite(fd_.get(), buffer.data, bytes, offset);
        // What a failed write left behind is not known until it is written again:
        // rewrite_uncertain().
        if (n == static_cast<ssize_t>(bytes))
          for (uint64_t i = 0; i < per_request; ++i) versions_[first + i] = version;
      }
      done.ended = Clock::now();
      done.err = error_of(n, bytes);
      log_[me].push_back(done);
      ++completions_;
      if (done.err == 0 && done.started > killed_.load()) ++successes_after_;
      // The disk of mode None is gone for good; FailIO's comes back.
      if (done.err != 0 && options_.reopen && killed_.load() != Clock::time_point::max()) return;
      // An application that gets an error tries again a moment later. Without the moment these
      // threads take every CPU from the recovery they are waiting for.
      if (done.err != 0) std::this_thread::sleep_for(retry_pause);
      group += options_.threads;
      if (group >= groups) group = me;
    }
  }
  bool wait_completions(uint64_t n) const {
    const auto until = Clock::now() + give_up;
    while (completions_ < n && Clock::now() < until) std::this_thread::sleep_for(1ms);
    return completions_ >= n;
  }
  bool wait_successes_after_kill() const {
    const uint64_t goal = uint64_t{options_.threads} * 4;
    const auto until = Clock::now() + give_up;
    while (successes_after_ < goal && Clock::now() < until) std::this_thread::sleep_for(1ms);
    return successes_after_ >= goal;
  }

  std::optional<Clock::time_point> kill_server() {
    auto server = Pidfd::open(options_.pid);
    if (!server) {
      std::fprintf(stderr, "ublk-witness: %s\n", server.error().to_string().c_str());
      return std::nullopt;
    }
    const auto now = Clock::now();
    if (auto sent = server->kill(SIGKILL); !sent) {
      std::fprintf(stderr, "ublk-witness: %s\n", sent.error().to_string().c_str());
      return std::nullopt;
    }
    // What is sent before the server is dead may still have reached it.
    pollfd dead{server->fd(), POLLIN, 0};
    (void)::poll(&dead, 1, std::chrono::milliseconds(give_up) / 1ms);
    died_ = Clock::now();
    return now;
  }

  bool rewrite_uncertain() {
    const Aligned buffer(block_bytes);
    for (uint64_t block = 0; block < blocks_; ++block) {
      if (versions_[block] != uncertain) continue;
      versions_[block] = next_version_++;
      fill(buffer.data, block, versions_[block]);
      if (::pwrite(fd_.get(), buffer.data, block_bytes, static_cast<off_t>(block * block_bytes)) !=
          static_cast<ssize_t>(block_bytes)) {
        std::fprintf(stderr, "ublk-witness: rewrite: %s\n", std::strerror(errno));
        return false;
      }
    }
    return true;
  }

  uint64_t verify_all() {
    const Aligned buffer(chunk_bytes);
    const Aligned wanted(block_bytes);
    uint64_t good = 0;
    for (uint64_t block = 0; block < blocks_; block += chunk_bytes / block_bytes) {
      if (::pread(fd_.get(), buffer.data, chunk_bytes, static_cast<off_t>(block * block_bytes)) !=
          static_cast<ssize_t>(chunk_bytes)) {
        std::fprintf(stderr, "ublk-witness: verify: %s\n", std::strerror(errno));
        return good;
      }
      for (uint64_t i = 0; i < chunk_bytes / block_bytes; ++i) {
        fill(wanted.data, block + i, versions_[block + i]);
        if (std::memcmp(buffer.data + i * block_bytes, wanted.data, block_bytes) == 0)
          ++good;
        else
          std::fprintf(stderr, "ublk-witness: block %" PRIu64 " is not what was acknowledged\n",
                       block + i);
      }
    }
    return good;
  }

  [[nodiscard]] double pause_ms() const {
    std::vector<Clock::time_point> ends{killed_.load()};
    for (const auto& log : log_)
      for (const auto& done : log)
        if (done.err == 0 && done.ended > killed_.load()) ends.push_back(done.ended);
    std::sort(ends.begin(), ends.end());
    Clock::duration longest{0};
    for (size_t i = 1; i < ends.size(); ++i) longest = std::max(longest, ends[i] - ends[i - 1]);
    return std::chrono::duration<double, std::milli>(longest).count();
  }

  void report(uint64_t verified) const {
    const auto killed = killed_.load();
    unsigned in_flight = 0;
    unsigned in_flight_failed = 0;
    unsigned fresh_failed = 0;
    unsigned errors = 0;
    for (const auto& log : log_)
      for (const auto& done : log) {
        const bool was_in_flight = done.started <= died_ && done.ended > killed;
        in_flight += was_in_flight ? 1 : 0;
        if (done.err == 0) continue;
        ++errors;
        if (was_in_flight)
          ++in_flight_failed;
        else
          ++fresh_failed;
      }
    std::printf(
        "%-8s in-flight: %-9s new: %-7s errors: %-4u pause: %.0f ms  verified: %" PRIu64 " MiB\n",
        options_.name.c_str(),
        in_flight_failed > 0 ? "EIO"
        : in_flight > 0      ? "reissued"
                             : "none",
        fresh_failed > 0 ? "failed" : "waited", errors, pause_ms(), (verified * block_bytes) >> 20);
  }

  static constexpr uint64_t uncertain = UINT64_MAX;

  const Options options_;
  const uint64_t blocks_;
  UniqueFd fd_;
  dev_t number_ = 0;
  std::vector<uint64_t> versions_;
  std::vector<std::vector<Completed>> log_;
  std::vector<std::thread> threads_;
  std::atomic<bool> stop_ = false;
  std::atomic<uint64_t> completions_ = 0;
  std::atomic<uint64_t> successes_after_ = 0;
  std::atomic<uint64_t> next_version_ = 2;
  Clock::time_point died_;  // not earlier than killed_
  std::atomic<Clock::time_point> killed_ = Clock::time_point::max();
};

int witness_main(int argc, char** argv) {
  Options options;
  CLI::App app{"an application that is there when the server of its disk is killed"};
  app.add_option("--device", options.device, "block device")->required();
  app.add_option("--kill", options.pid, "pid of the server")->required();
  app.add_option("--name", options.name, "first word of the line");
  app.add_option("--mib", options.mib, "how much of the device to write and verify")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "requests in flight")->capture_default_str();
  app.add_flag("--pause-only", options.pause_only, "read 4 KiB blocks, print the pause in ms");
  app.add_flag("--reopen", options.reopen, "the disk goes with its server (recovery.mode None)");
  CLI11_PARSE(app, argc, argv);
  return Witness(std::move(options)).run();
}

}  // namespace
}  // namespace ublk_operator

int main(int argc, char** argv) { return ublk_operator::witness_main(argc, argv); }

// ublk-application: what runs on a volume for days while servers, pods and nodes go and come: it
// writes blocks, reads each back before it writes it again and at its end, and says what it saw. It
// never stops by itself, whatever its device does.
//
//   ublk-application --device /dev/ublk/by-name/pgdata
//   ready
//   pause_ms=73 errors=0    a time without a completed request, once it is over, 30 ms or more
//                           longer than its threads rest at --rate
//   writes=15733 reads=15733 errors=0 lost=0 reopened=0 pauses=1 longest_ms=73
//                           at SIGTERM; exit status 1 if lost
//
// lost counts blocks that held neither the last acknowledged version nor one whose write got an
// error since. After an error it opens the name again when another device stands there
// (recovery.mode None). All writes are O_DIRECT; --sync adds O_DSYNC, so that what is acknowledged
// survives a power cut too.
#include <fcntl.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "common/base/unique_fd.h"
#include "tests/witness/block.h"

namespace ublk_operator {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto pause_worth_a_line = 30ms;
constexpr auto retry_pause = 10ms;

struct Options {
  std::string device;
  unsigned mib = 16;
  unsigned threads = 4;
  unsigned rate = 200;
  bool sync = false;
};

struct Buffer {
  Buffer() : data(static_cast<std::byte*>(std::aligned_alloc(block_bytes, block_bytes))) {}
  ~Buffer() { std::free(data); }  // NOLINT(cppcoreguidelines-no-malloc)
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  std::byte* data;
};

// What a block may hold: from the last acknowledged version to the last one that was sent.
struct Block {
  uint64_t acknowledged = 0;  // 0: none
  uint64_t sent = 0;
};

class Application {
 public:
  explicit Application(Options options)
      : options_(std::move(options)), blocks_((uint64_t{options_.mib} << 20) / block_bytes) {}

  int run(int stop_fd) {
    reopen();
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < options_.threads; ++i) threads.emplace_back([this, i] { work(i); });
    pollfd stop{stop_fd, POLLIN, 0};
    while (::poll(&stop, 1, -1) < 0 && errno == EINTR) {
    }
    stopping_ = true;
    for (auto& thread : threads) thread.join();
    std::printf("writes=%" PRIu64 " reads=%" PRIu64 " errors=%" PRIu64 " lost=%" PRIu64
                " reopened=%" PRIu64 " pauses=%" PRIu64 " longest_ms=%" PRId64 "\n",
                writes_.load(), reads_.load(), errors_.load(), lost_.load(), reopened_.load(),
                pauses_, longest_ms_);
    return lost_ == 0 ? 0 : 1;
  }

 private:
  // Each thread owns every threads-th block, so that nobody else writes what it reads.
  void work(unsigned me) {
    const Buffer buffer;
    const Buffer wanted;
    std::vector<Block> blocks((blocks_ - me + options_.threads - 1) / options_.threads);
    for (uint64_t round = 1; !stopping_; ++round)
      for (size_t i = 0; i < blocks.size() && !stopping_; ++i) {
        const uint64_t number = me + i * options_.threads;
        if (blocks[i].acknowledged != 0) check(number, blocks[i], buffer, wanted);
        fill(buffer.data, number, round);
        blocks[i].sent = round;
        if (transfer(true, number, buffer)) {
          blocks[i].acknowledged = round;
          ++writes_;
        }
        if (round == 1 && i + 1 == blocks.size() && ++filled_ == options_.threads) say("ready");
      }
    // What was written since it was read last, unless the device fails by now.
    for (size_t i = 0; i < blocks.size(); ++i)
      if (blocks[i].acknowledged != 0 &&
          !check(me + i * options_.threads, blocks[i], buffer, wanted))
        return;
  }

  // False: the block could not be read.
  bool check(uint64_t number, const Block& block, const Buffer& buffer, const Buffer& wanted) {
    if (!transfer(false, number, buffer)) return false;
    ++reads_;
    for (uint64_t version = block.acknowledged; version <= block.sent; ++version) {
      fill(wanted.data, number, version);
      if (std::memcmp(buffer.data, wanted.data, block_bytes) == 0) return true;
    }
    ++lost_;
    std::fprintf(stderr,
                 "block %" PRIu64 " holds none of the versions %" PRIu64 " to %" PRIu64 "\n",
                 number, block.acknowledged, block.sent);
    return true;
  }

  bool transfer(bool write, uint64_t block, const Buffer& buffer) {
    const auto offset = static_cast<off_t>(block * block_bytes);
    int err = ENODEV;
    const int fd = fd_;
    if (fd >= 0) {
      const ssize_t n = write ? ::pwrite(fd, buffer.data, block_bytes, offset)
                              : ::pread(fd, buffer.data, block_bytes, offset);
      err = n == static_cast<ssize_t>(block_bytes) ? 0 : n < 0 ? errno : EIO;
    }
    if (err == 0) {
      completed();
      // The machine is also others'.
      if (!stopping_) std::this_thread::sleep_for(rest());
      return true;
    }
    ++errors_;
    std::this_thread::sleep_for(retry_pause);
    reopen();
    return false;
  }

  // Between two requests of a thread.
  [[nodiscard]] std::chrono::microseconds rest() const { return 1'000'000us / options_.rate; }

  // Old descriptors stay open until the end: other threads may be using them.
  void reopen() {
    const std::scoped_lock lock(mutex_);
    struct stat info{};
    if (::stat(options_.device.c_str(), &info) < 0) return;
    if (fd_ >= 0 && info.st_rdev == number_) return;
    const int flags = O_RDWR | O_DIRECT | O_CLOEXEC | (options_.sync ? O_DSYNC : 0);
    UniqueFd fd(::open(options_.device.c_str(), flags));
    if (!fd.valid()) return;
    if (fd_ >= 0) ++reopened_;
    number_ = info.st_rdev;
    fd_ = fd.get();
    opened_.push_back(std::move(fd));
    // A disk that nobody has open any more is one that can go.
    if (opened_.size() > 1) opened_.erase(opened_.begin(), opened_.end() - 1);
  }

  void completed() {
    const auto now = Clock::now();
    const std::scoped_lock lock(mutex_);
    const auto pause = now - last_;
    const bool counts = filled_ == options_.threads && pause >= pause_worth_a_line + rest();
    last_ = now;
    if (!counts) return;
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(pause).count();
    ++pauses_;
    longest_ms_ = std::max<int64_t>(longest_ms_, ms);
    std::printf("pause_ms=%" PRId64 " errors=%" PRIu64 "\n", int64_t{ms}, errors_.load());
    std::fflush(stdout);
  }

  void say(const char* line) {
    const std::scoped_lock lock(mutex_);
    last_ = Clock::now();
    std::puts(line);
    std::fflush(stdout);
  }

  const Options options_;
  const uint64_t blocks_;
  std::atomic<bool> stopping_ = false;
  std::atomic<int> fd_ = -1;
  std::atomic<unsigned> filled_ = 0;
  std::atomic<uint64_t> writes_ = 0;
  std::atomic<uint64_t> reads_ = 0;
  std::atomic<uint64_t> errors_ = 0;
  std::atomic<uint64_t> lost_ = 0;
  std::atomic<uint64_t> reopened_ = 0;
  std::mutex mutex_;  // guards what follows
  dev_t number_ = 0;
  std::vector<UniqueFd> opened_;
  Clock::time_point last_ = Clock::now();
  uint64_t pauses_ = 0;
  int64_t longest_ms_ = 0;
};

int application_main(int argc, char** argv) {
  Options options;
  CLI::App app{"an application on a block volume that says what it saw"};
  app.add_option("--device", options.device, "block device")->required();
  app.add_option("--mib", options.mib, "how much of it to use")->capture_default_str();
  app.add_option("--threads", options.threads, "requests in flight")->capture_default_str();
  app.add_option("--rate", options.rate, "requests a second of each thread")
      ->capture_default_str()
      ->check(CLI::Range(1U, 1'000'000U));
  app.add_flag("--sync", options.sync, "what is acknowledged survives a power cut");
  CLI11_PARSE(app, argc, argv);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  const UniqueFd stop(::signalfd(-1, &set, SFD_CLOEXEC));
  return Application(std::move(options)).run(stop.get());
}

}  // namespace
}  // namespace ublk_operator

int main(int argc, char** argv) { return ublk_operator::application_main(argc, argv); }

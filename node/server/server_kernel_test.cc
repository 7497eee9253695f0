// ublk-server on the kernel's own driver: needs root and ublk_drv (./dev vm).
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <future>
#include <thread>

#include "common/base/files.h"
#include "common/base/pidfd.h"
#include "common/base/strings.h"
#include "common/ipc/message_socket.h"
#include "gtest/gtest.h"
#include "node/server/protocol.h"
#include "node/ublk/control_device.h"

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;
using Bytes = std::vector<std::byte>;

constexpr uint64_t kSizeBytes = 32 << 20;
constexpr uint32_t kBlockBytes = 4096;
constexpr auto kPatience = 20s;  // for what takes milliseconds; TCG and a busy machine included

std::string server_program() {
  const auto beside = std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() /
                      "bin" / "ublk-server";
  if (std::filesystem::exists(beside)) return beside;
  const char* search = getenv("PATH");
  for (const auto folder : split(search != nullptr ? search : "", ':')) {
    const auto path = std::filesystem::path(folder) / "ublk-server";
    if (std::filesystem::exists(path)) return path;
  }
  return "ublk-server";
}

// Memory that O_DIRECT accepts.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(size_t bytes)
      : bytes_(bytes), data_(static_cast<std::byte*>(std::aligned_alloc(4096, bytes))) {}
  ~AlignedBuffer() { std::free(data_); }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] size_t size() const { return bytes_; }

 private:
  size_t bytes_;
  std::byte* data_;
};

Bytes pattern(size_t bytes, unsigned seed) {
  Bytes data(bytes);
  unsigned state = seed * 2654435761u + 1;
  for (auto& byte : data) {
    state = state * 1664525u + 1013904223u;
    byte = static_cast<std::byte>(state >> 24);
  }
  return data;
}

// 0, or the errno.
int write_at(int fd, uint64_t offset, const Bytes& data, int rwf = 0) {
  const AlignedBuffer buffer(data.size());
  std::copy(data.begin(), data.end(), buffer.data());
  const iovec part{.iov_base = buffer.data(), .iov_len = data.size()};
  const ssize_t done = pwritev2(fd, &part, 1, static_cast<off_t>(offset), rwf);
  if (done < 0) return errno;
  return done == static_cast<ssize_t>(data.size()) ? 0 : -1;
}

Bytes read_at(int fd, uint64_t offset, size_t bytes) {
  const AlignedBuffer buffer(bytes);
  const ssize_t done = pread(fd, buffer.data(), bytes, static_cast<off_t>(offset));
  EXPECT_EQ(done, static_cast<ssize_t>(bytes)) << errno_name(errno);
  return {buffer.data(), buffer.data() + bytes};
}

struct ServerOptions {
  bool unprivileged = false;
  std::string allocations = {};  // a file of 8 bytes: how often it allocated (tests/preload)
};

class ServerProcess {
 public:
  explicit ServerProcess(const ServerOptions& options) {
    auto pair = MessageSocket::pair();
    UBLK_CHECK(pair.ok());
    channel_ = std::move(pair->first);
    const int theirs = pair->second.fd();
    const std::string program = server_program();
    const std::string channel = std::to_string(theirs);
    const std::string counting =
        std::filesystem::read_symlink("/proc/self/exe").parent_path().parent_path() / "lib" /
        "libcount_allocations.so";
    const pid_t pid = fork();
    if (pid == 0) {
      (void)fcntl(theirs, F_SETFD, 0);
      if (options.unprivileged) {
        const rlimit unlimited{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
        if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) != 0 ||
            setrlimit(RLIMIT_MEMLOCK, &unlimited) != 0 || setgroups(0, nullptr) != 0 ||
            setgid(65534) != 0 || setuid(65534) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
          _exit(98);
      }
      if (!options.allocations.empty()) {
        (void)setenv("UBLK_ALLOCATIONS", options.allocations.c_str(), 1);
        (void)setenv("LD_PRELOAD", counting.c_str(), 1);
      }
      execl(program.c_str(), program.c_str(), "--channel", channel.c_str(), "--arena", "1048576",
            nullptr);
      _exit(99);
    }
    auto pidfd = Pidfd::open(pid);
    UBLK_CHECK(pidfd.ok());
    pidfd_ = std::move(pidfd).value();
  }
  ~ServerProcess() {
    if (!reaped_) {
      (void)pidfd_.kill(SIGKILL);
      (void)wait_exit();
    }
  }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  [[nodiscard]] pid_t pid() const { return pidfd_.pid(); }
  [[nodiscard]] const Pidfd& pidfd() const { return pidfd_; }
  MessageSocket& channel() { return channel_; }

  Message receive() {
    auto message = channel_.receive(kPatience);
    if (!message) return Message{{{"type", message.error().to_string()}}, {}};
    return std::move(message).value();
  }
  // Its exit status, or 128 + the signal.
  int wait_exit() {
    int status = 0;
    UBLK_CHECK(waitpid(pid(), &status, 0) == pid());
    reaped_ = true;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }
  StatsMessage stats() {
    EXPECT_TRUE(channel_.send({{"type", "stats"}, {"id", 5}}).ok());
    auto stats = stats_from_json(receive().body);
    EXPECT_TRUE(stats.ok()) << stats.error().to_string();
    EXPECT_EQ(stats->id, 5u);
    return stats.value();
  }

 private:
  MessageSocket channel_;
  Pidfd pidfd_;
  bool reaped_ = false;
};

class ServerKernelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto control = open_control_device();
    if (!control) GTEST_SKIP() << control.error().to_string();
    control_ = std::move(control).value();
    geometry_.size_bytes = kSizeBytes;
    geometry_.logical_block_bytes = kBlockBytes;
    geometry_.discard_granularity_bytes = kBlockBytes;
    geometry_.discard_max_bytes = 1 << 20;
    geometry_.write_zeroes_max_bytes = 1 << 20;
    // Not /tmp: a file system on a disk, which can zero ranges and do direct I/O.
    folder_ = std::filesystem::path("/var/tmp") / ("server_test." + std::to_string(getpid()));
    std::filesystem::create_directory(folder_);
    path_ = folder_ / "volume.img";
  }
  void TearDown() override {
    block_.reset();
    server_.reset();
    if (device_) {
      EXPECT_TRUE(control_->stop(*device_, {}).ok());
      const auto removed = control_->remove(*device_, {});
      EXPECT_TRUE(removed.ok()) << removed.error().to_string();
    }
    if (mounted_) umount2(folder_.c_str(), MNT_DETACH);
    std::filesystem::remove_all(folder_);
  }

  [[nodiscard]] bool kernel_is_7_2() { return (*control_->features({}) & flags::quiesce) != 0; }

  void add_device(uint64_t wanted = flags::user_recovery | flags::user_recovery_reissue) {
    if (kernel_is_7_2() && (wanted & flags::user_recovery) != 0) wanted |= flags::quiesce;
    // For a server with capabilities the driver looks for partitions, some time after START_DEV. A
    // read of that which meets a quiesced device waits for the recovery, with the first pages
    // locked, and so does a write to them that was carried out.
    wanted |= *control_->features({}) & flags::no_auto_part_scan;
    const auto info = control_->add({.flags = wanted, .geometry = geometry_}, {});
    ASSERT_TRUE(info.ok()) << info.error().to_string();
    device_ = info->id;
    ASSERT_EQ(info->queues, geometry_.queues);
    const auto set = control_->set_params(*device_, geometry_, {});
    ASSERT_TRUE(set.ok()) << set.error().to_string();
  }
  UniqueFd open_file(int open_flags = O_RDWR) {
    UniqueFd file(open(path_.c_str(), open_flags | O_CREAT | O_CLOEXEC, 0600));
    EXPECT_TRUE(file.valid());
    struct stat info{};
    EXPECT_EQ(fstat(file.get(), &info), 0);
    if (info.st_size == 0) {
      EXPECT_EQ(ftruncate(file.get(), kSizeBytes), 0);
    }
    return file;
  }
  GrantMessage grant_message() {
    GrantMessage grant;
    grant.volume = "test";
    grant.generation = ++generation_;
    grant.device = *device_;
    grant.geometry = geometry_;
    grant.backend = backend_;
    grant.latency_ns = latency_ns_;
    for (uint16_t queue = 0; queue < geometry_.queues; ++queue) {
      auto cpus = control_->queue_affinity(*device_, queue, {});
      EXPECT_TRUE(cpus.ok());
      grant.queue_cpus.push_back(std::move(cpus).value());
    }
    return grant;
  }
  // A new server, ready.
  std::unique_ptr<ServerProcess> standby(const ServerOptions& options = {}) {
    auto server = std::make_unique<ServerProcess>(options);
    const auto ready = ready_from_json(server->receive().body);
    EXPECT_TRUE(ready.ok()) << ready.error().to_string();
    if (ready) ready_ = *ready;
    return server;
  }
  // Sends prepare and grant; the answer to the grant.
  nlohmann::json grant(ServerProcess& server, const std::string& halt_at = "", int hook = -1) {
    EXPECT_TRUE(server.channel().send(to_json(PrepareMessage{geometry_})).ok());
    EXPECT_EQ(server.receive().body.at("type"), "prepared");
    auto message = grant_message();
    message.halt_at = halt_at;
    UniqueFd file;
    std::vector<int> fds;
    if (backend_.at("kind") == "file") {
      file = open_file(backend_.value("direct", false) ? O_RDWR | O_DIRECT : O_RDWR);
      fds.push_back(file.get());
    }
    if (hook >= 0) fds.push_back(hook);
    EXPECT_TRUE(server.channel().send(to_json(message), fds).ok());
    if (!halt_at.empty()) return {};
    auto answer = server.receive().body;
    return answer.at("type") == "opening" ? server.receive().body : answer;
  }
  // From nothing to an open block device.
  void bring_up(uint64_t wanted = flags::user_recovery | flags::user_recovery_reissue,
                const ServerOptions& options = {}) {
    add_device(wanted);
    if (options.unprivileged) {
      ASSERT_EQ(chown(char_path(*device_).c_str(), 65534, 65534), 0);
    }
    server_ = standby(options);
    const auto answer = grant(*server_);
    ASSERT_EQ(answer.at("type"), "fetching") << answer;
    const auto started = control_->start(
        *device_, server_->pid(), {.timeout = kPatience, .cancel_fd = server_->pidfd().fd()});
    ASSERT_TRUE(started.ok()) << started.error().to_string();
    open_block();
  }
  void open_block() {
    block_.reset(open(block_path(*device_).c_str(), O_RDWR | O_DIRECT | O_CLOEXEC));
    ASSERT_TRUE(block_.valid()) << errno_name(errno);
  }
  // START_USER_RECOVERY as soon as the kernel let go of ublkcN: the event is its close, the check
  // is the command.
  void begin_recovery() {
    const UniqueFd watch(inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    ASSERT_GE(inotify_add_watch(watch.get(), char_path(*device_).c_str(), IN_CLOSE), 0);
    pollfd closed{.fd = watch.get(), .events = POLLIN, .revents = 0};
    const auto give_up = std::chrono::steady_clock::now() + kPatience;
    Result<void> begun;
    while (!(begun = control_->begin_recovery(*device_, {})) && begun.err() == EBUSY &&
           std::chrono::steady_clock::now() < give_up)
      (void)poll(&closed, 1, 5);  // it may have been closed before the watch
    ASSERT_TRUE(begun.ok()) << begun.error().to_string();
  }
  void recover_with_new_server() {
    begin_recovery();
    server_ = standby();
    const auto answer = grant(*server_);
    ASSERT_EQ(answer.at("type"), "fetching") << answer;
    const auto ended = control_->end_recovery(
        *device_, server_->pid(), {.timeout = kPatience, .cancel_fd = server_->pidfd().fd()});
    ASSERT_TRUE(ended.ok()) << ended.error().to_string();
  }
  void kill_server() {
    ASSERT_TRUE(server_->pidfd().kill(SIGKILL).ok());
    ASSERT_EQ(server_->wait_exit(), 128 + SIGKILL);
  }

  std::unique_ptr<ControlDevice> control_;
  std::optional<DeviceId> device_;
  Geometry geometry_;
  nlohmann::json backend_ = {{"kind", "file"}, {"path", "volume.img"}};
  uint64_t latency_ns_ = 0;
  uint64_t generation_ = 0;
  std::filesystem::path folder_;
  std::filesystem::path path_;
  bool mounted_ = false;
  ReadyMessage ready_;
  std::unique_ptr<ServerProcess> server_;
  UniqueFd block_;
};

TEST_F(ServerKernelTest, ARequestAllocatesNothing) {
  const std::string counted = folder_ / "allocations";
  const auto allocations = [&] {
    uint64_t count = 0;
    std::memcpy(&count, read_file(counted, sizeof count)->data(), sizeof count);
    return count;
  };
  ASSERT_TRUE(write_file_atomically(counted, std::string(sizeof(uint64_t), '\0')).ok());
  for (const bool direct : {false, true}) {
    backend_["direct"] = direct;
    bring_up(flags::user_recovery | flags::user_recovery_reissue, {.allocations = counted});
    const auto requests = [&] {
      for (unsigned i = 0; i < 50; ++i) {
        const uint64_t offset = uint64_t{i} * 64 * kBlockBytes;
        EXPECT_EQ(write_at(block_.get(), offset, pattern(size_t{16} * kBlockBytes, i)), 0);
        EXPECT_EQ(write_at(block_.get(), offset, pattern(kBlockBytes, i + 1), RWF_DSYNC), 0);
        EXPECT_EQ(read_at(block_.get(), offset, kBlockBytes), pattern(kBlockBytes, i + 1));
        EXPECT_EQ(fsync(block_.get()), 0);
        uint64_t range[] = {offset, kBlockBytes};
        EXPECT_EQ(ioctl(block_.get(), BLKDISCARD, range), 0);
        EXPECT_EQ(ioctl(block_.get(), BLKZEROOUT, range), 0);
      }
    };
    requests();  // the first ones may: of what they set up nothing is given back
    const uint64_t before = allocations();
    EXPECT_GT(before, 0U) << "it counts";
    requests();
    EXPECT_EQ(allocations(), before) << "of 300 requests, direct: " << direct;
    if (direct) break;
    block_.reset();
    kill_server();
    server_.reset();
    ASSERT_TRUE(control_->stop(*device_, {}).ok());
    ASSERT_TRUE(control_->remove(*device_, {}).ok());
    device_.reset();
  }
}

struct Shape {
  uint16_t queues;
  uint16_t depth;
  bool direct;
};
class ServerShapeTest : public ServerKernelTest, public ::testing::WithParamInterface<Shape> {};

TEST_P(ServerShapeTest, WhatIsWrittenIsReadBackAndLiesInTheFile) {
  geometry_.queues = GetParam().queues;
  geometry_.queue_depth = GetParam().depth;
  geometry_.max_io_bytes = 64 << 10;
  backend_["direct"] = GetParam().direct;
  bring_up();
  ASSERT_FALSE(HasFatalFailure());

  // Several writers, so that all queues and many tags are used; 256 KiB is 4 requests.
  constexpr size_t chunk = 256 << 10;
  constexpr unsigned writers = 4;
  constexpr unsigned chunks_each = 8;
  constexpr size_t total = size_t{writers} * chunks_each * chunk;
  std::vector<std::thread> threads;
  for (unsigned writer = 0; writer < writers; ++writer)
    threads.emplace_back([&, writer] {
      for (unsigned i = 0; i < chunks_each; ++i) {
        const unsigned at = writer * chunks_each + i;
        EXPECT_EQ(write_at(block_.get(), at * chunk, pattern(chunk, at)), 0);
      }
    });
  for (auto& thread : threads) thread.join();
  ASSERT_EQ(fsync(block_.get()), 0);

  const UniqueFd file(open(path_.c_str(), O_RDONLY | O_CLOEXEC));
  for (unsigned at = 0; at < writers * chunks_each; ++at) {
    const auto expected = pattern(chunk, at);
    EXPECT_TRUE(read_at(block_.get(), at * chunk, chunk) == expected) << "chunk " << at;
    EXPECT_TRUE(read_at(file.get(), at * chunk, chunk) == expected) << "chunk " << at;
  }
  const auto stats = server_->stats();
  EXPECT_GE(stats.io.at("write").bytes, total);
  EXPECT_GE(stats.io.at("read").bytes, total);
  EXPECT_GE(stats.io.at("flush").operations, 1u);
  for (const auto& [operation, counters] : stats.io) {
    uint64_t timed = 0;
    for (const uint64_t count : counters.latency.counts) timed += count;
    EXPECT_EQ(timed, counters.operations) << operation;
  }
  EXPECT_GT(stats.io.at("write").latency.sum_ns, 0u);
  EXPECT_TRUE(stats.io_errors.empty());
}

INSTANTIATE_TEST_SUITE_P(Shapes, ServerShapeTest,
                         ::testing::Values(Shape{1, 1, false}, Shape{1, 128, false},
                                           Shape{2, 1, false}, Shape{2, 128, true}),
                         [](const auto& param) {
                           return std::to_string(param.param.queues) + "x" +
                                  std::to_string(param.param.depth) +
                                  (param.param.direct ? "direct" : "");
                         });

TEST_F(ServerKernelTest, DiscardZeroesAndDurableWritesReachTheFile) {
  bring_up();
  ASSERT_FALSE(HasFatalFailure());
  const auto data = pattern(1 << 20, 1);
  ASSERT_EQ(write_at(block_.get(), 0, data), 0);
  ASSERT_EQ(write_at(block_.get(), 2 << 20, data, RWF_DSYNC), 0);
  uint64_t discard[2] = {256 << 10, 128 << 10};
  ASSERT_EQ(ioctl(block_.get(), BLKDISCARD, discard), 0);
  uint64_t zero[2] = {512 << 10, 128 << 10};
  ASSERT_EQ(ioctl(block_.get(), BLKZEROOUT, zero), 0);

  auto expected = data;
  std::fill_n(expected.begin() + (256 << 10), 128 << 10, std::byte{0});
  std::fill_n(expected.begin() + (512 << 10), 128 << 10, std::byte{0});
  EXPECT_TRUE(read_at(block_.get(), 0, expected.size()) == expected);
  const auto stats = server_->stats();
  EXPECT_GE(stats.io.at("discard").operations, 1u);
  EXPECT_GE(stats.io.at("write_zeroes").operations, 1u);
  // On a file system that cannot zero a range (tmpfs) the block layer wrote the zeroes instead.
  for (const auto& [name, count] : stats.io_errors) EXPECT_EQ(name, "EOPNOTSUPP") << count;
}

TEST_F(ServerKernelTest, FullFileSystemReachesTheApplicationAsEnospc) {
  ASSERT_EQ(mount("none", folder_.c_str(), "tmpfs", 0, "size=2m"), 0);
  mounted_ = true;
  bring_up();
  ASSERT_FALSE(HasFatalFailure());
  int err = 0;
  for (uint64_t offset = 0; offset < kSizeBytes && err == 0; offset += 64 << 10)
    err = write_at(block_.get(), offset, pattern(64 << 10, 1));
  EXPECT_EQ(errno_name(err), "ENOSPC");
  const auto stats = server_->stats();
  EXPECT_GE(stats.io_errors.at("ENOSPC"), 1u);
  EXPECT_GE(stats.io.at("write").errors, 1u);
}

TEST_F(ServerKernelTest, FileThatBecameShorterIsAnErrorAndNotZeroes) {
  bring_up();
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_EQ(truncate(path_.c_str(), 1 << 20), 0);
  const AlignedBuffer buffer(kBlockBytes);
  EXPECT_EQ(pread(block_.get(), buffer.data(), kBlockBytes, 8 << 20), -1);
  EXPECT_EQ(errno_name(errno), "EIO");
}

TEST_F(ServerKernelTest, KilledServerIsReplacedAndTheWriteInFlightIsNotLost) {
  latency_ns_ = 200'000'000;
  bring_up();
  ASSERT_FALSE(HasFatalFailure());
  const auto before = pattern(64 << 10, 1);
  ASSERT_EQ(write_at(block_.get(), 0, before), 0);

  const auto data = pattern(64 << 10, 2);
  auto in_flight =
      std::async(std::launch::async, [&] { return write_at(block_.get(), 1 << 20, data); });
  ASSERT_EQ(in_flight.wait_for(50ms), std::future_status::timeout);  // held by the backend
  kill_server();
  ASSERT_EQ(in_flight.wait_for(0ms), std::future_status::timeout);
  latency_ns_ = 0;
  recover_with_new_server();
  ASSERT_EQ(in_flight.get(), 0);
  EXPECT_TRUE(read_at(block_.get(), 1 << 20, data.size()) == data);
  EXPECT_TRUE(read_at(block_.get(), 0, before.size()) == before);
}

TEST_F(ServerKernelTest, ServerKilledAtAHaltPointLeavesADeviceThatTheNextOneRecovers) {
  if (!kernel_is_7_2())
    GTEST_SKIP() << "before 7.2 a recovery that died half way cannot be repeated";
  geometry_.queues = 2;
  bring_up();
  ASSERT_FALSE(HasFatalFailure());
  const auto data = pattern(64 << 10, 3);
  ASSERT_EQ(write_at(block_.get(), 0, data), 0);
  for (const char* point : {"before_open", "after_mmap", "half_fetched"}) {
    SCOPED_TRACE(point);
    kill_server();
    begin_recovery();
    ASSERT_FALSE(HasFatalFailure());
    server_ = standby();
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe2(ends.data(), O_CLOEXEC), 0);
    const UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    grant(*server_, point, writer.get());
    writer.reset();
    std::array<char, 32> text{};
    ASSERT_GT(read(reader.get(), text.data(), text.size()), 0);
    EXPECT_EQ(std::atoi(text.data()), server_->pid());
    kill_server();
    recover_with_new_server();
    ASSERT_FALSE(HasFatalFailure());
    EXPECT_TRUE(read_at(block_.get(), 0, data.size()) == data);
  }
}

TEST_F(ServerKernelTest, QuiescedServerCommitsWhatItHoldsAndLeaves) {
  if (!kernel_is_7_2()) GTEST_SKIP() << "QUIESCE_DEV needs Linux 7.2's driver";
  latency_ns_ = 100'000'000;
  geometry_.queues = 2;
  bring_up(flags::user_recovery);  // Queue mode: a lost request would be an EIO
  ASSERT_FALSE(HasFatalFailure());
  const auto data = pattern(64 << 10, 4);
  auto in_flight = std::async(std::launch::async, [&] { return write_at(block_.get(), 0, data); });
  ASSERT_EQ(in_flight.wait_for(50ms), std::future_status::timeout);
  const auto quiesced = control_->quiesce(*device_, 2s, {});
  ASSERT_TRUE(quiesced.ok()) << quiesced.error().to_string();
  EXPECT_EQ(server_->wait_exit(), 0);
  EXPECT_EQ(in_flight.get(), 0);
  recover_with_new_server();
  EXPECT_TRUE(read_at(block_.get(), 0, data.size()) == data);
}

TEST_F(ServerKernelTest, StoppedDeviceEndsItsServer) {
  bring_up();
  ASSERT_FALSE(HasFatalFailure());
  block_.reset();
  ASSERT_TRUE(control_->stop(*device_, {}).ok());
  EXPECT_EQ(server_->wait_exit(), 0);
}

TEST_F(ServerKernelTest, ClosedChannelAndSigtermDoNotStopServing) {
  bring_up();
  ASSERT_FALSE(HasFatalFailure());
  server_->channel().close();
  ASSERT_TRUE(server_->pidfd().kill(SIGTERM).ok());
  const auto data = pattern(64 << 10, 5);
  EXPECT_EQ(write_at(block_.get(), 0, data), 0);
  EXPECT_TRUE(read_at(block_.get(), 0, data.size()) == data);
  EXPECT_FALSE(server_->pidfd().exited());
}

TEST_F(ServerKernelTest, UnprivilegedServerServesWithLockedMemory) {
  bring_up(flags::user_recovery, {.unprivileged = true});
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_EQ(ready_.uid, 65534u);
  EXPECT_FALSE(ready_.has_capabilities);
  EXPECT_TRUE(ready_.no_new_privileges);
  EXPECT_TRUE(ready_.io_flusher);
  EXPECT_TRUE(ready_.memory_locked) << ready_.warning;
  const auto data = pattern(64 << 10, 6);
  EXPECT_EQ(write_at(block_.get(), 0, data), 0);
  EXPECT_TRUE(read_at(block_.get(), 0, data.size()) == data);

  // Every thread writes back under memory pressure, not only the one that was asked for it.
  const std::string tasks = "/proc/" + std::to_string(server_->pid()) + "/task";
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    const auto stat = read_file((task.path() / "stat").string(), 4096);
    ASSERT_TRUE(stat.ok());
    const auto fields = split(std::string_view(*stat).substr(stat->rfind(") ") + 2), ' ');
    const unsigned long bits = std::strtoul(std::string(fields.at(6)).c_str(), nullptr, 10);
    EXPECT_EQ(bits & 0x180000ul, 0x180000ul) << task.path();
  }
}

TEST_F(ServerKernelTest, SecondServerIsToldThatTheDeviceIsBusy) {
  bring_up();
  ASSERT_FALSE(HasFatalFailure());
  const auto second = standby();
  const auto answer = grant(*second);
  EXPECT_EQ(answer.at("type"), "failed");
  EXPECT_EQ(failed_from_json(answer).err, EBUSY);
  EXPECT_EQ(second->wait_exit(), 1);
  const auto data = pattern(kBlockBytes, 7);
  EXPECT_EQ(write_at(block_.get(), 0, data), 0);
}

TEST_F(ServerKernelTest, BackendThatCannotHoldTheVolumeFailsBeforeTheDeviceIsTouched) {
  add_device();
  ASSERT_FALSE(HasFatalFailure());
  {
    const UniqueFd file(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(ftruncate(file.get(), kBlockBytes), 0);
  }
  const auto failing = standby();
  const auto answer = grant(*failing);
  ASSERT_EQ(answer.at("type"), "failed");
  EXPECT_EQ(failed_from_json(answer).err, EINVAL);
  EXPECT_EQ(failing->wait_exit(), 1);

  // A device that was mapped and left before START_DEV could not be served again.
  ASSERT_EQ(truncate(path_.c_str(), kSizeBytes), 0);
  server_ = standby();
  ASSERT_EQ(grant(*server_).at("type"), "fetching");
  const auto started = control_->start(*device_, server_->pid(), {.timeout = kPatience});
  EXPECT_TRUE(started.ok()) << started.error().to_string();
}

TEST_F(ServerKernelTest, ServerDescribesWhatItHolds) {
  bring_up();
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_TRUE(server_->channel().send({{"type", "describe"}}).ok());
  const auto described = described_from_json(server_->receive().body);
  ASSERT_TRUE(described.ok());
  EXPECT_TRUE(described->granted && described->fetching);
  EXPECT_EQ(described->volume, "test");
  EXPECT_EQ(described->generation, 1u);
  EXPECT_EQ(described->device, *device_);
}

TEST_F(ServerKernelTest, HeraldOfAKilledServerSpeaks) {
  bring_up();
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_TRUE(server_->channel().send({{"type", "describe"}}).ok());
  const auto described = server_->receive();
  ASSERT_EQ(described.fds.size(), 1U);
  pollfd herald{.fd = described.fds.front().get(), .events = POLLIN, .revents = 0};
  EXPECT_EQ(poll(&herald, 1, 0), 0);
  ASSERT_TRUE(server_->pidfd().kill(SIGKILL));
  EXPECT_EQ(poll(&herald, 1, static_cast<int>(std::chrono::milliseconds(kPatience).count())), 1);
}

TEST_F(ServerKernelTest, NullBackendServes) {
  backend_ = {{"kind", "null"}};
  geometry_.queues = 2;
  bring_up();
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_EQ(write_at(block_.get(), 0, pattern(64 << 10, 8)), 0);
  EXPECT_EQ(read_at(block_.get(), 0, 64 << 10).size(), size_t{64 << 10});
  EXPECT_EQ(fsync(block_.get()), 0);
}

}  // namespace
}  // namespace ublk_operator

#include "tests/vm/slow_disk.h"

#include <endian.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/nbd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tests/vm/lab_node.h"

namespace ublk_operator::lab {

namespace {

bool transfer(int fd, void* data, size_t bytes, bool receive) {
  auto* at = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t n = receive ? ::recv(fd, at, bytes, 0) : ::send(fd, at, bytes, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    bytes -= static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

SlowDisk::SlowDisk(uint64_t bytes) : medium_(bytes) {
  constexpr unsigned long block_bytes = 512;
  EXPECT_EQ(shell("modprobe nbd nbds_max=4"), 0);
  int sockets[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
  socket_.reset(sockets[0]);
  UniqueFd theirs(sockets[1]);
  path_ = "/dev/nbd0";
  device_.reset(::open(path_.c_str(), O_RDWR | O_CLOEXEC));
  EXPECT_TRUE(device_.valid()) << path_ << ": " << std::strerror(errno);
  if (!device_.valid()) return;
  EXPECT_EQ(::ioctl(device_.get(), NBD_SET_BLKSIZE, block_bytes), 0);
  EXPECT_EQ(::ioctl(device_.get(), NBD_SET_SIZE_BLOCKS, bytes / block_bytes), 0);
  EXPECT_EQ(::ioctl(device_.get(), NBD_SET_SOCK, theirs.get()), 0) << std::strerror(errno);
  server_ = std::thread([this] { serve(); });
  driver_ = std::thread([this, theirs = std::move(theirs)] {
    (void)::ioctl(device_.get(), NBD_DO_IT);  // until the disconnect
  });
  // The kernel says that it began in no other way.
  for (int i = 0; i < 5000 && ::access("/sys/block/nbd0/pid", F_OK) != 0; ++i)
    std::this_thread::sleep_for(2ms);
}

SlowDisk::~SlowDisk() {
  release();
  if (device_.valid()) {
    (void)::ioctl(device_.get(), NBD_DISCONNECT);
    driver_.join();
    (void)::ioctl(device_.get(), NBD_CLEAR_SOCK);
    server_.join();
  }
}

void SlowDisk::hold_next(std::vector<std::byte> content) {
  const std::scoped_lock lock(mutex_);
  wanted_ = std::move(content);
}

bool SlowDisk::wait_held() {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, patience, [this] { return held_.has_value(); });
}

void SlowDisk::release() {
  const std::scoped_lock lock(mutex_);
  wanted_.clear();
  if (!held_) return;
  apply(*held_);
  reply(held_->cookie, 0, nullptr, 0);
  held_.reset();
}

void SlowDisk::apply(const Request& request) {
  std::copy(request.data.begin(), request.data.end(),
            medium_.begin() + static_cast<std::ptrdiff_t>(request.offset));
}

void SlowDisk::reply(const char (&cookie)[8], uint32_t error, const std::byte* data, size_t bytes) {
  nbd_reply header{};
  header.magic = htobe32(NBD_REPLY_MAGIC);
  header.error = htobe32(error);
  std::memcpy(&header.handle, cookie, sizeof cookie);
  std::vector<std::byte> message(sizeof header + bytes);
  std::memcpy(message.data(), &header, sizeof header);
  if (bytes > 0) std::memcpy(message.data() + sizeof header, data, bytes);
  (void)transfer(socket_.get(), message.data(), message.size(), false);
}

void SlowDisk::serve() {
  nbd_request header{};
  while (transfer(socket_.get(), &header, sizeof header, true)) {
    Request request;
    std::memcpy(request.cookie, &header.handle, sizeof request.cookie);
    request.offset = be64toh(header.from);
    const uint32_t bytes = be32toh(header.len);
    const uint32_t type = be32toh(header.type) & 0xffff;
    if (type == NBD_CMD_DISC) break;
    if (type == NBD_CMD_WRITE) {
      request.data.resize(bytes);
      if (!transfer(socket_.get(), request.data.data(), bytes, true)) break;
    }
    const std::scoped_lock lock(mutex_);
    if (request.offset > medium_.size() || bytes > medium_.size() - request.offset) {
      reply(request.cookie, EINVAL, nullptr, 0);
    } else if (type == NBD_CMD_READ) {
      reply(request.cookie, 0, medium_.data() + request.offset, bytes);
    } else if (type == NBD_CMD_WRITE && !wanted_.empty() && bytes >= wanted_.size() &&
               std::equal(wanted_.begin(), wanted_.end(), request.data.begin())) {
      wanted_.clear();
      held_ = std::move(request);
      changed_.notify_all();
    } else {
      if (type == NBD_CMD_WRITE) apply(request);
      reply(request.cookie, 0, nullptr, 0);
    }
  }
  // The driver goes on until its socket says that nobody is there.
  (void)::shutdown(socket_.get(), SHUT_RDWR);
}

SlowPool::SlowPool(const SlowDisk& disk) {
  EXPECT_EQ(shell("mkdir -p " + path() + " && mkfs.ext4 -q " + disk.path() + " && mount " +
                  disk.path() + " " + path()),
            0);
}

SlowPool::~SlowPool() { EXPECT_EQ(shell("umount " + path()), 0); }

}  // namespace ublk_operator::lab

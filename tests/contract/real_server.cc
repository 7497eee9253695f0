#include "tests/contract/real_server.h"

#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <optional>

#include "common/base/pidfd.h"
#include "node/ublk/abi.h"

namespace ublk_operator::contract {
namespace {

constexpr size_t buffer_bytes = 64 << 10;
constexpr unsigned tags_max = 64;

enum class Order : uint32_t { open, map, fetch, hold, holds, sees_abort, copy_char, leave };

struct Message {
  Order order{};
  uint32_t a = 0;
  uint32_t b = 0;
};

// ---- in the child -------------------------------------------------------------------------------

// Single-threaded; never returns to the test's own code.
class Child {
 public:
  explicit Child(int socket) : socket_(socket) {}

  [[noreturn]] void run() {
    if (io_uring_queue_init(2 * tags_max, &ring_, 0) != 0) ::_exit(101);
    ring_open_ = true;
    void* memory = ::mmap(nullptr, tags_max * buffer_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) ::_exit(102);
    buffers_ = static_cast<std::byte*>(memory);
    for (;;) {
      answer_waiter();
      std::array<pollfd, 2> entries{
          {{socket_, POLLIN, 0}, {ring_open_ ? ring_.ring_fd : -1, POLLIN, 0}}};
      if (::poll(entries.data(), entries.size(), -1) < 0) continue;
      if (entries[1].revents != 0) take_completions();
      if (entries[0].revents != 0) take_order();
    }
  }

 private:
  void take_order() {
    Message message;
    if (::recv(socket_, &message, sizeof message, 0) != sizeof message) ::_exit(0);
    switch (message.order) {
      case Order::open:
        id_ = message.a;
        char_.reset(::open(char_path(id_).c_str(), O_RDWR | O_CLOEXEC));
        return reply(char_.valid() ? 0 : errno);
      case Order::map:
        return reply(map());
      case Order::fetch:
        return reply(fetch(static_cast<uint16_t>(message.a), static_cast<uint16_t>(message.b)));
      case Order::hold:
        hold_ = message.a != 0;
        if (!hold_) {
          for (const unsigned tag : held_) commit(tag);
          held_.clear();
        }
        return reply(0);
      case Order::holds:
      case Order::sees_abort:
        waiter_ = message;  // answered when it is so
        return;
      case Order::copy_char:
        return reply(0, char_.get());
      case Order::leave:
        leave();
        return reply(0);
    }
  }

  int map() {
    const auto bytes = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
    void* area = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, char_.get(), 0);
    if (area == MAP_FAILED) return errno;
    descriptors_ = static_cast<const abi::IoDesc*>(area);
    return 0;
  }

  // The driver answers a FETCH it refuses at once, and one it takes only when a request comes.
  int fetch(uint16_t queue, uint16_t tag) {
    submit(abi::io_fetch_req, queue, tag, -1);
    io_uring_cqe* cqe = nullptr;
    // Refusals are posted during submission.
    if (io_uring_peek_cqe(&ring_, &cqe) != 0 || cqe == nullptr) return 0;
    if (cqe->res >= 0 || cqe->res == abi::io_res_abort || cqe->user_data != tag) {
      take_completions();
      return 0;
    }
    const int err = -cqe->res;
    io_uring_cqe_seen(&ring_, cqe);
    return err;
  }

  void commit(unsigned tag) {
    const auto bytes = static_cast<int32_t>(descriptors_[tag].nr_sectors << 9);
    submit(abi::io_commit_and_fetch_req, 0, static_cast<uint16_t>(tag), bytes);
  }

  void submit(uint32_t opcode, uint16_t queue, uint16_t tag, int32_t result) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) ::_exit(104);  // each is submitted before the next is taken
    std::memset(static_cast<void*>(sqe), 0, sizeof *sqe);
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = char_.get();
    sqe->cmd_op = opcode;
    sqe->user_data = tag;
    abi::IoCmd command{};
    command.q_id = queue;
    command.tag = tag;
    command.result = result;
    command.addr = reinterpret_cast<uintptr_t>(buffers_ + (tag % tags_max) * buffer_bytes);
    std::memcpy(reinterpret_cast<std::byte*>(sqe) + offsetof(io_uring_sqe, addr3), &command,
                sizeof command);
    io_uring_submit(&ring_);
  }

  void take_completions() {
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0 && cqe != nullptr) {
      const auto tag = static_cast<unsigned>(cqe->user_data);
      const int result = cqe->res;
      io_uring_cqe_seen(&ring_, cqe);
      if (result == abi::io_res_abort) {
        aborted_ = true;
      } else if (result == abi::io_res_ok) {
        if (hold_) {
          held_.push_back(tag);
        } else {
          commit(tag);
        }
      }
    }
  }

  void answer_waiter() {
    if (!waiter_) return;
    const bool so = waiter_->order == Order::holds ? held_.size() >= waiter_->a : aborted_;
    if (!so) return;
    waiter_.reset();
    reply(0);
  }

  // As a process that execs or exits, but it lives on: ring, mapping and file go.
  void leave() {
    io_uring_queue_exit(&ring_);
    ring_open_ = false;
    if (descriptors_ != nullptr)
      ::munmap(const_cast<abi::IoDesc*>(descriptors_),
               static_cast<size_t>(::sysconf(_SC_PAGESIZE)));
    char_.reset();
  }

  void reply(int err, int fd = -1) const {
    iovec data{&err, sizeof err};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
    if (fd >= 0) {
      header.msg_control = control.data();
      header.msg_controllen = control.size();
      cmsghdr* item = CMSG_FIRSTHDR(&header);
      item->cmsg_level = SOL_SOCKET;
      item->cmsg_type = SCM_RIGHTS;
      item->cmsg_len = CMSG_LEN(sizeof fd);
      std::memcpy(CMSG_DATA(item), &fd, sizeof fd);
    }
    if (::sendmsg(socket_, &header, MSG_NOSIGNAL) < 0) ::_exit(0);
  }

  int socket_;
  io_uring ring_{};
  bool ring_open_ = false;
  UniqueFd char_;
  DeviceId id_ = 0;
  std::byte* buffers_ = nullptr;
  const abi::IoDesc* descriptors_ = nullptr;
  bool hold_ = false;
  bool aborted_ = false;
  std::vector<unsigned> held_;
  std::optional<Message> waiter_;
};

// ---- in the test --------------------------------------------------------------------------------

class RealServer final : public Server {
 public:
  RealServer(Pidfd process, UniqueFd socket)
      : process_(std::move(process)), socket_(std::move(socket)) {}
  ~RealServer() override {
    kill();
    reap();
  }

  [[nodiscard]] pid_t pid() const override { return process_.pid(); }
  [[nodiscard]] int pidfd() const override { return process_.fd(); }

  Result<void> open_char(DeviceId id) override { return ask("open", {Order::open, id, 0}); }
  Result<void> map() override {
    memory_ =
        UniqueFd(::open(("/proc/" + std::to_string(pid()) + "/mem").c_str(), O_RDONLY | O_CLOEXEC));
    EXPECT_TRUE(memory_.valid());
    return ask("mmap", {Order::map, 0, 0});
  }
  Result<void> fetch(uint16_t queue, uint16_t tag) override {
    return ask("fetch", {Order::fetch, queue, tag});
  }
  void hold(bool on) override {
    const Result<void> done = ask("hold", {Order::hold, on ? 1u : 0u, 0});
    EXPECT_TRUE(done) << done.error().to_string();
  }
  bool holds(unsigned requests) override { return ask("holds", {Order::holds, requests, 0}).ok(); }
  bool sees_abort(std::chrono::milliseconds time) override {
    return ask("sees_abort", {Order::sees_abort, 0, 0}, time).ok();
  }
  std::shared_ptr<void> copy_char() override {
    UniqueFd copy;
    const Result<void> done = ask("copy_char", {Order::copy_char, 0, 0}, soon, &copy);
    EXPECT_TRUE(done && copy.valid());
    return std::make_shared<UniqueFd>(std::move(copy));
  }
  void leave() override {
    const Result<void> done = ask("leave", {Order::leave, 0, 0});
    EXPECT_TRUE(done) << done.error().to_string();
  }
  void kill() override {
    if (reaped_) return;
    static_cast<void>(process_.kill(SIGKILL));
    pollfd entry{process_.fd(), POLLIN, 0};
    EXPECT_EQ(::poll(&entry, 1, static_cast<int>(soon.count())), 1) << "does not die";
  }
  void reap() override {
    if (reaped_) return;
    int status = 0;
    EXPECT_EQ(::waitpid(process_.pid(), &status, 0), process_.pid());
    reaped_ = true;
  }

 private:
  Result<void> ask(const char* what, Message message, std::chrono::milliseconds time = soon,
                   UniqueFd* received = nullptr) {
    const std::string name = "server " + std::to_string(pid());
    // An answer that came too late for the last question must not pass for one to this.
    int stale = 0;
    while (::recv(socket_.get(), &stale, sizeof stale, MSG_DONTWAIT) > 0) {
    }
    if (::send(socket_.get(), &message, sizeof message, MSG_NOSIGNAL) < 0)
      return errno_error(what, name);
    pollfd entry{socket_.get(), POLLIN, 0};
    if (::poll(&entry, 1, static_cast<int>(time.count())) != 1)
      return Error{ETIMEDOUT, what, name, "no answer"};
    int err = EPROTO;
    iovec data{&err, sizeof err};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int))> control{};
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    if (::recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC) != sizeof err)
      return Error{EPIPE, what, name, "it is gone"};
    if (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(item), sizeof fd);
      const UniqueFd owner(fd);
      if (received != nullptr) {
        Result<UniqueFd> kept = owner.duplicate();
        if (kept) *received = std::move(kept).value();
      }
    }
    if (err != 0) return Error{err, what, name, ""};
    return {};
  }

  Pidfd process_;
  UniqueFd socket_;
  // The driver knows the memory that is bound to a device by the address of its mm_struct, which it
  // does not hold (ublk_ch_mmap). While this is open no later server's has that address; without it
  // one of the next ten or so has, and may map what should be refused.
  UniqueFd memory_;
  bool reaped_ = false;
};

}  // namespace

std::unique_ptr<Server> spawn_real_server() {
  std::array<int, 2> sockets{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets.data()) != 0) return nullptr;
  UniqueFd ours(sockets[0]);
  UniqueFd theirs(sockets[1]);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return nullptr;
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(0);
    // Nothing of the test may stay open here: a copy of another server's ublkcN would keep it.
    const int socket = ::dup2(theirs.release(), 3);
    if (socket != 3 || ::close_range(4, ~0u, 0) != 0) ::_exit(103);
    Child(socket).run();
  }
  Result<Pidfd> process = Pidfd::open(pid);
  if (!process) return nullptr;
  return std::make_unique<RealServer>(std::move(process).value(), std::move(ours));
}

}  // namespace ublk_operator::contract

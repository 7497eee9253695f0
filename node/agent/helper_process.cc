#include "node/agent/helper_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include "common/base/strings.h"

namespace ublk_operator {

namespace {

std::string drain(int fd) {
  std::string text;
  char buffer[1024];
  ssize_t n = 0;
  constexpr size_t output_bytes_max = 8192;
  while (text.size() < output_bytes_max && (n = ::read(fd, buffer, sizeof buffer)) > 0)
    text.append(buffer, static_cast<size_t>(n));
  return std::string(trim(text));
}

}  // namespace

Result<HelperProcess> HelperProcess::start(const std::string& program,
                                           const std::vector<std::string>& words) {
  const std::string what = "helper " + join(words, " ");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) return errno_error("pipe", what);
  UniqueFd output(ends[0]);
  const UniqueFd input(ends[1]);

  std::vector<std::string> arguments{program, "helper"};
  arguments.insert(arguments.end(), words.begin(), words.end());
  std::vector<char*> argv;
  for (auto& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.get(), STDOUT_FILENO);
  // Whatever the thread that needs it is at the moment (common/base/run_first.h).
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  const sched_param ordinary{};
  posix_spawnattr_setschedpolicy(&attributes, SCHED_OTHER);
  posix_spawnattr_setschedparam(&attributes, &ordinary);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSCHEDULER);
  pid_t pid = -1;
  const int failed =
      ::posix_spawn(&pid, program.c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return Error{failed, "spawn", what, "cannot run " + program};

  auto pidfd = Pidfd::open(pid);  // not reaped yet, so the number is still its own
  if (!pidfd) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, WNOHANG);
    return std::move(pidfd).error();
  }
  return HelperProcess(words, std::move(*pidfd), std::move(output));
}

HelperProcess::HelperProcess(HelperProcess&& other) noexcept
    : words_(std::move(other.words_)),
      pidfd_(std::exchange(other.pidfd_, Pidfd())),
      output_(std::move(other.output_)) {}

HelperProcess& HelperProcess::operator=(HelperProcess&& other) noexcept {
  std::swap(words_, other.words_);
  std::swap(pidfd_, other.pidfd_);
  std::swap(output_, other.output_);
  return *this;
}

HelperProcess::~HelperProcess() {
  if (!pidfd_.valid()) return;
  kill();
  (void)reap();
}

bool HelperProcess::wait(std::chrono::steady_clock::time_point until) const {
  pollfd ended{pidfd_.fd(), POLLIN, 0};
  int ready = 0;
  do {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    ready = ::poll(&ended, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
  } while (ready < 0 && errno == EINTR);
  return ready > 0;
}

void HelperProcess::kill() const { (void)pidfd_.kill(SIGKILL); }

bool HelperProcess::reap() {
  if (pidfd_.valid() && ::waitpid(pidfd_.pid(), nullptr, WNOHANG) == 0) return false;
  pidfd_ = Pidfd();
  return true;
}

Result<std::string> HelperProcess::finish() {
  int status = 0;
  ::waitpid(pidfd_.pid(), &status, 0);
  pidfd_ = Pidfd();
  std::string output = drain(output_.get());
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return output;
  const int err = WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
  return Error{err, words_.front(), words_.size() > 1 ? words_[1] : "", std::move(output)};
}

}  // namespace ublk_operator

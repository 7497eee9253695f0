#include "node/watchdog/watchdog.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <optional>
#include <string_view>

#include "common/base/error.h"
#include "common/base/files.h"
#include "common/base/strings.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {

std::chrono::milliseconds RestartPace::died(Clock::time_point now) {
  constexpr size_t beyond_max = 8;
  while (!deaths_.empty() && now - deaths_.front() > options_.window) deaths_.pop_front();
  deaths_.push_back(now);
  if (deaths_.size() <= options_.burst) return std::chrono::milliseconds(0);
  const size_t beyond = std::min(deaths_.size() - options_.burst, beyond_max);
  while (deaths_.size() > options_.burst + beyond_max) deaths_.pop_front();
  return std::min(options_.wait_max, options_.wait_first * (int64_t{1} << (beyond - 1)));
}

namespace {

constexpr std::chrono::milliseconds restart_retry_min{100};

// proc(5): the OOM killer never chooses who has the first value.
constexpr std::string_view never_chosen = "-1000";
constexpr const char* oom_score_adj = "/proc/self/oom_score_adj";
constexpr size_t oom_score_bytes_max = 16;

sigset_t all_signals() {
  sigset_t set;
  sigfillset(&set);
  return set;
}

// Of this process; async-signal-safe.
bool set_oom_score(std::string_view score) {
  const int fd = ::open(oom_score_adj, O_WRONLY | O_CLOEXEC);
  const bool set = fd >= 0 && ::write(fd, score.data(), score.size()) >= 0;
  if (fd >= 0) ::close(fd);
  return set;
}

// The child's id. What keeps it from being started is told through a pipe that execve closes. The
// child has the OOM score that this process was given, unless that is empty.
Result<pid_t> start(const std::vector<std::string>& command, std::string_view oom_score) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (const auto& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return errno_error("pipe", command.front());
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const pid_t self = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return errno_error("fork", command.front());
  if (pid == 0) {
    sigset_t none;
    sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    // With hostPID nobody else ends it when the container's first process is killed, and two of it
    // must not be.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != self) ::_exit(1);
    if (!oom_score.empty()) (void)set_oom_score(oom_score);
    ::execvp(argv[0], argv.data());
    const int err = errno;
    (void)!::write(writer.get(), &err, sizeof err);
    ::_exit(127);
  }
  writer.reset();
  int err = 0;
  ssize_t got = 0;
  do got = ::read(reader.get(), &err, sizeof err);
  while (got < 0 && errno == EINTR);
  if (got != sizeof err) return pid;
  (void)::waitpid(pid, nullptr, 0);
  return Error{err, "exec", command.front(), "the program cannot be started"};
}

int status_of(int status) {
  return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// Reaps every child that ended; the status of `pid` when it was among them.
std::optional<int> reap(pid_t pid) {
  std::optional<int> ended;
  int status = 0;
  for (pid_t one = 0; (one = ::waitpid(-1, &status, WNOHANG)) > 0;)
    if (one == pid) ended = status;
  return ended;
}

}  // namespace

Result<void> survive_out_of_memory(const std::string& folder) {
  const std::string path = folder + "/memory.oom.group";
  const UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return errno_error("open", path);
  return write_all(fd.get(), "0", path);
}

Result<int> run_watchdog(const std::vector<std::string>& command, const Logger& log) {
  const sigset_t set = all_signals();
  if (::sigprocmask(SIG_SETMASK, &set, nullptr) < 0) return errno_error("sigprocmask", "");
  // Inherited as ignored, children would be reaped by the kernel without a word.
  if (::signal(SIGCHLD, SIG_DFL) == SIG_ERR) return errno_error("signal", "SIGCHLD");
  const UniqueFd signals(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals.valid()) return errno_error("signalfd", "");

  // Who starts the program again is worth more than the memory it has, which is the least of all.
  auto given = read_file(oom_score_adj, oom_score_bytes_max);
  if (!given || !set_oom_score(never_chosen)) {
    log->warn("operation=set_oom_score_adj error=\"{}\"",
              given ? errno_name(errno) : given.error().to_string());
    given = std::string();
  }

  RestartPace pace;
  auto child = start(command, *given);
  if (!child) return child.error();
  bool running = true;
  RestartPace::Clock::time_point start_at{};  // of the next child, while none runs
  while (true) {
    int timeout = -1;
    if (!running)
      timeout = static_cast<int>(std::max<int64_t>(
          0, std::chrono::ceil<std::chrono::milliseconds>(start_at - RestartPace::Clock::now())
                 .count()));
    pollfd fd{signals.get(), POLLIN, 0};
    (void)::poll(&fd, 1, timeout);
    signalfd_siginfo info{};
    while (::read(signals.get(), &info, sizeof info) == sizeof info) {
      const int signal = static_cast<int>(info.ssi_signo);
      if (signal == SIGCHLD) continue;
      const bool ends = signal == SIGTERM || signal == SIGINT;
      // Others are about this process: the log's pipe broke, a terminal was resized.
      if (!ends && signal != SIGHUP && signal != SIGUSR1 && signal != SIGUSR2) continue;
      if (running) {
        (void)::kill(*child, signal);
        if (!ends) continue;
        int status = 0;
        while (::waitpid(*child, &status, 0) < 0 && errno == EINTR) {
        }
        return status_of(status);
      }
      if (ends) return 128 + signal;
    }
    if (running) {
      const auto ended = reap(*child);
      if (!ended) continue;
      const auto wait = pace.died(RestartPace::Clock::now());
      log->warn("program={} pid={} event=Died {}={} restart_in_ms={}", command.front(), *child,
                WIFSIGNALED(*ended) ? "signal" : "status",
                WIFSIGNALED(*ended) ? WTERMSIG(*ended) : WEXITSTATUS(*ended), wait.count());
      running = false;
      start_at = RestartPace::Clock::now() + wait;
    }
    if (RestartPace::Clock::now() < start_at) continue;
    child = start(command, *given);
    if (child) {
      running = true;
      continue;
    }
    // It did start once: no memory, or no processes left, is no reason to give up.
    const auto wait = std::max(pace.died(RestartPace::Clock::now()), restart_retry_min);
    log->warn("program={} event=NotStarted error=\"{}\" restart_in_ms={}", command.front(),
              child.error().to_string(), wait.count());
    start_at = RestartPace::Clock::now() + wait;
  }
}

}  // namespace ublk_operator

#include "node/spawner/daemon.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "common/base/files.h"
#include "common/base/sd_notify.h"
#include "common/base/stop_signals.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {

namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

// Three descriptors a server and some of our own, at limits::servers_max.
constexpr rlim_t open_files_wanted = 16384;
constexpr std::string_view oom_score_adj = "-950";  // servers have -900, and die with us

// A restart of the journal breaks standard error; SIGPIPE would then end us and all servers.
// An ignored SIGCHLD (it survives exec) would make the kernel reap our children by itself.
Result<UniqueFd> take_signals() {
  struct sigaction action{};
  action.sa_handler = SIG_IGN;
  if (::sigaction(SIGPIPE, &action, nullptr) < 0) return errno_error("sigaction", "SIGPIPE");
  action.sa_handler = SIG_DFL;
  if (::sigaction(SIGCHLD, &action, nullptr) < 0) return errno_error("sigaction", "SIGCHLD");
  return stop_signals();
}

// The way to recovery leads through this process, so it must not wait for the very volumes that are
// to be recovered: not for a page of its own (swap, program text), not for writeback. What is
// refused (no CAP_SYS_RESOURCE or CAP_IPC_LOCK in a container) is worth a line, not a failure.
void protect_from_stalled_volumes(const Logger& log) {
  if (auto fd = UniqueFd(::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
      !fd.valid() || ::write(fd.get(), oom_score_adj.data(), oom_score_adj.size()) < 0)
    log->warn("the OOM killer may choose the spawner: {}",
              errno_error("set_oom_score_adj", "spawner").to_string());
  if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
    log->warn("allocations may wait for writeback: {}",
              errno_error("set_io_flusher", "spawner").to_string());
  if (::mlockall(MCL_CURRENT | MCL_FUTURE) < 0)
    log->warn("the spawner may be swapped out: {}", errno_error("mlockall", "spawner").to_string());
}

void raise_open_files() {
  rlimit now{};
  if (::getrlimit(RLIMIT_NOFILE, &now) < 0 || now.rlim_cur >= open_files_wanted) return;
  now.rlim_cur = std::min(now.rlim_max, open_files_wanted);
  ::setrlimit(RLIMIT_NOFILE, &now);
}

std::string parent_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  return slash == std::string::npos || slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace

int run_spawner(const SpawnerOptions& options, const Logger& log) {
  auto signals = take_signals();
  if (!signals) {
    log->error("{}", signals.error().to_string());
    return EXIT_FAILURE;
  }
  raise_open_files();
  protect_from_stalled_volumes(log);
  if (auto made = make_directories(parent_of(options.socket_path)); !made) {
    log->error("{}", made.error().to_string());
    return EXIT_FAILURE;
  }
  auto spawner = Spawner::create(options, log);
  if (!spawner) {
    log->error("{}", spawner.error().to_string());
    return EXIT_FAILURE;
  }
  log->info("listening socket={}", options.socket_path);
  if (auto told = sd_notify("READY=1"); !told) log->warn("{}", told.error().to_string());
  const auto ended = spawner->run(signals->get());
  return ended ? EXIT_SUCCESS : EXIT_FAILURE;
}

namespace {

struct ReadySocket {
  UniqueFd fd;
  std::string name;  // as NOTIFY_SOCKET wants it: "@..."
};

// The way services tell that they are ready serves here too: the daemon needs no option for it. An
// abstract name chosen by the kernel leaves no file behind.
Result<ReadySocket> make_ready_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return errno_error("socket", "AF_UNIX SOCK_DGRAM");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(sa_family_t)) < 0)
    return errno_error("bind", "readiness socket");
  socklen_t length = sizeof address;
  if (::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) < 0)
    return errno_error("getsockname", "readiness socket");
  std::string name(address.sun_path, length - offsetof(sockaddr_un, sun_path));
  name[0] = '@';
  return ReadySocket{std::move(fd), std::move(name)};
}

// In the grandchild: only system calls, its parent may have had threads.
[[noreturn]] void become_daemon(int log, int null, int alive, int status, const char* program,
                                char* const* argv, char* const* envp) {
  // The alive pipe stays open across exec, for as long as the daemon lives.
  const bool ok = ::dup2(null, STDIN_FILENO) >= 0 && ::dup2(log, STDOUT_FILENO) >= 0 &&
                  ::dup2(log, STDERR_FILENO) >= 0 && ::fcntl(alive, F_SETFD, 0) >= 0 &&
                  ::chdir("/") >= 0;
  if (ok) {
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::execve(program, argv, envp);
  }
  const int err = errno;
  (void)!::write(status, &err, sizeof err);
  ::_exit(127);
}

// argv[0] and the environment of the daemon.
std::vector<std::string> daemon_environment(const std::string& notify_socket) {
  std::vector<std::string> entries;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    // Lines of the log file get a time, not the journal's priorities.
    if (!text.starts_with("NOTIFY_SOCKET=") && !text.starts_with("JOURNAL_STREAM="))
      entries.emplace_back(text);
  }
  entries.push_back("NOTIFY_SOCKET=" + notify_socket);
  return entries;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (std::string& text : strings) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

// /proc/self/exe would name the process "exe"; its target is the same program, unless an upgrade
// has replaced the file meanwhile.
std::string resolve_program(const std::string& program) {
  std::array<char, 4096> target{};
  const ssize_t n = ::readlink(program.c_str(), target.data(), target.size() - 1);
  if (n <= 0 || program != "/proc/self/exe") return program;
  return ::access(target.data(), X_OK) == 0 ? std::string(target.data()) : program;
}

}  // namespace

Result<void> start_spawner_daemon(const SpawnerDaemonOptions& options) {
  const auto deadline = steady_clock::now() + options.timeout;
  auto ready = make_ready_socket();
  if (!ready) return std::move(ready).error();
  if (auto made = make_directories(parent_of(options.log_file)); !made) return made;
  const UniqueFd log(
      ::open(options.log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640));
  if (!log.valid()) return errno_error("open", options.log_file);
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid()) return errno_error("open", "/dev/null");
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) < 0) return errno_error("pipe", "spawner daemon");
  const UniqueFd status_read(pipe_fds[0]);
  UniqueFd status_write(pipe_fds[1]);
  if (::pipe2(pipe_fds, O_CLOEXEC) < 0) return errno_error("pipe", "spawner daemon");
  const UniqueFd alive_read(pipe_fds[0]);
  UniqueFd alive_write(pipe_fds[1]);

  const std::string program = resolve_program(options.program);
  std::vector<std::string> arguments{program};
  arguments.insert(arguments.end(), options.arguments.begin(), options.arguments.end());
  std::vector<std::string> environment = daemon_environment(ready->name);
  const std::vector<char*> argv = pointers(arguments);
  const std::vector<char*> envp = pointers(environment);

  // Twice: the one in the middle ends at once, so that the daemon is init's child and neither a
  // zombie of ours nor in our session.
  const pid_t middle = ::fork();
  if (middle < 0) return errno_error("fork", program);
  if (middle == 0) {
    ::setsid();
    const pid_t daemon = ::fork();
    if (daemon == 0)
      become_daemon(log.get(), null.get(), alive_write.get(), status_write.get(), program.c_str(),
                    argv.data(), envp.data());
    if (daemon < 0) {
      const int err = errno;
      (void)!::write(status_write.get(), &err, sizeof err);
    }
    ::_exit(0);
  }
  while (::waitpid(middle, nullptr, 0) < 0 && errno == EINTR) {
  }
  status_write.reset();
  alive_write.reset();

  int err = 0;
  ssize_t n = 0;
  do {
    n = ::read(status_read.get(), &err, sizeof err);  // end of file once exec has succeeded
  } while (n < 0 && errno == EINTR);
  if (n == static_cast<ssize_t>(sizeof err)) return Error{err, "exec", program, ""};

  while (true) {
    std::array<pollfd, 2> events{{{ready->fd.get(), POLLIN, 0}, {alive_read.get(), POLLIN, 0}}};
    const auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    const int count = ::poll(events.data(), events.size(),
                             static_cast<int>(std::max<milliseconds::rep>(left.count(), 0)));
    if (count < 0 && errno != EINTR) return errno_error("poll", program);
    if (count == 0)
      return Error{ETIMEDOUT, "start", "spawner", "not listening yet; see " + options.log_file};
    if (count > 0 && events[0].revents != 0) return {};
    if (count > 0 && events[1].revents != 0)
      return Error{ECHILD, "start", "spawner",
                   "it ended before it listened; see " + options.log_file};
  }
}

}  // namespace ublk_operator

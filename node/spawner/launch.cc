#include "node/spawner/launch.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <sys/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace ublk_operator {

namespace {

// Numbers that the child's fixed descriptors (0 to 4) cannot overwrite.
constexpr int high_fd_min = 16;
constexpr int channel_fd = 3;
constexpr int report_fd = 4;
// A queue thread's ring, a backend file and a channel are some ten descriptors; libraries of
// network backends open connections by the hundred.
constexpr rlim_t open_files_max = 65536;
constexpr rlim_t realtime_us_max = 10'000'000;
constexpr std::string_view oom_score_adj = "-900";

enum class Step : int32_t {
  cgroup,
  oom_score,
  io_flusher,
  memory_lock_limit,
  core_limit,
  open_files_limit,
  realtime_limit,
  session,
  descriptors,
  groups,
  bounding_set,
  user_id,
  capabilities,
  no_new_privileges,
  parent_death_signal,
  exec,
};
struct StepText {
  const char* operation;
  bool fatal;
};
constexpr std::array<StepText, 16> step_texts{{
    {"join_cgroup", false},
    {"set_oom_score_adj", false},
    {"set_io_flusher", false},
    {"setrlimit_memlock", false},
    {"setrlimit_core", false},
    {"setrlimit_nofile", false},
    {"setrlimit_rtprio", false},
    {"setsid", false},
    {"pass_descriptors", true},
    {"setgroups", true},
    {"drop_bounding_set", true},
    {"setresuid", true},
    {"drop_capabilities", true},
    {"set_no_new_privs", true},
    {"set_pdeathsig", true},
    {"exec", true},
}};

struct Record {
  Step step;
  int32_t err;
};

// Everything the child needs, made before fork(): after it, only system calls (the process that
// forks may have threads, whose locks stay locked in the child).
struct Plan {
  UniqueFd null;
  UniqueFd channel;
  UniqueFd report;
  UniqueFd folder;  // of the program
  int cgroup_procs;
  std::string name;
  std::vector<char*> argv;
  std::vector<char*> envp;
  std::optional<uid_t> uid;
  cap_t no_capabilities;
  pid_t parent;
};

class Child {
 public:
  explicit Child(const Plan& plan) : plan_(plan), report_(plan.report.get()) {}

  [[noreturn]] void run() {
    signals();
    privileged_settings();
    descriptors();
    identity();
    check(Step::no_new_privileges, ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    // Last, because a change of credentials clears it (kernel/cred.c, commit_creds). A spawner that
    // died before it was set is noticed by the new parent.
    check(Step::parent_death_signal, ::prctl(PR_SET_PDEATHSIG, SIGKILL));
    if (::getppid() != plan_.parent) fail(Step::parent_death_signal, ESRCH);
    // Relative to its folder: only that folder must be open to the server's uid, not the way to it
    // (a checkout below /root is not).
    ::execveat(folder_fd, plan_.name.c_str(), plan_.argv.data(), plan_.envp.data(), 0);
    fail(Step::exec, errno);
  }

 private:
  static constexpr int folder_fd = 5;

  static void signals() {
    // SIGPIPE stays ignored: a restart of the journal closes standard error, and a line of log is
    // no reason to die.
    struct sigaction action{};
    for (int signal = 1; signal < NSIG; ++signal) {
      action.sa_handler = signal == SIGPIPE ? SIG_IGN : SIG_DFL;
      ::sigaction(signal, &action, nullptr);
    }
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
  }

  void privileged_settings() {
    if (plan_.cgroup_procs >= 0 && ::write(plan_.cgroup_procs, "0", 1) < 0)
      report(Step::cgroup, errno);
    // Servers are what every application on the node waits for; only their parent is worth more.
    const int oom = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (oom < 0 || ::write(oom, oom_score_adj.data(), oom_score_adj.size()) < 0)
      report(Step::oom_score, errno);
    // Memory that a server allocates must not wait for writeback to its own device. The flags
    // (PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE) are part of task_struct::flags, which a new task copies
    // (kernel/fork.c, copy_process clears others) and exec keeps (fs/exec.c, begin_new_exec): set
    // here, once, they hold for every thread the server starts and for its io_uring workers. The
    // server could not set them itself: it takes CAP_SYS_RESOURCE.
    if (::prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0) report(Step::io_flusher, errno);
    limit(Step::memory_lock_limit, RLIMIT_MEMLOCK, RLIM_INFINITY);
    // A dump keeps ublkcN open until it is written: seconds for a few hundred MB of buffers.
    limit(Step::core_limit, RLIMIT_CORE, 0);
    limit(Step::open_files_limit, RLIMIT_NOFILE, open_files_max);
    // While applications wait for it a server may run first (common/base/run_first.h); one that
    // then never waits is ended.
    limit(Step::realtime_limit, RLIMIT_RTPRIO, 1);
    limit(Step::realtime_limit, RLIMIT_RTTIME, realtime_us_max);
    // Out of reach of signals that a terminal sends to its foreground group.
    if (::setsid() < 0) report(Step::session, errno);
    ::umask(077);
    if (::chdir("/") < 0) report(Step::session, errno);
  }

  void limit(Step step, decltype(RLIMIT_CORE) resource, rlim_t value) {
    const rlimit wanted{value, value};
    if (::setrlimit(resource, &wanted) == 0) return;
    const int err = errno;
    // Not allowed to raise the hard limit: at least all of it.
    rlimit now{};
    if (::getrlimit(resource, &now) == 0) {
      now.rlim_cur = now.rlim_max;
      ::setrlimit(resource, &now);
      if (now.rlim_max == RLIM_INFINITY || now.rlim_max >= value) return;
    }
    report(step, err);
  }

  void descriptors() {
    check(Step::descriptors, ::dup2(plan_.null.get(), STDIN_FILENO));
    check(Step::descriptors, ::dup2(plan_.channel.get(), channel_fd));
    check(Step::descriptors, ::dup3(plan_.report.get(), report_fd, O_CLOEXEC));
    report_ = report_fd;
    check(Step::descriptors, ::dup3(plan_.folder.get(), folder_fd, O_CLOEXEC));
    check(Step::descriptors, ::close_range(folder_fd + 1, ~0U, 0));
  }

  void identity() {
    if (plan_.uid.has_value()) {
      check(Step::groups, static_cast<int>(::syscall(SYS_setgroups, 0, nullptr)));
      // Both need capabilities that the change of uid takes away.
      for (int cap = 0; ::prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; ++cap)
        check(Step::bounding_set, ::prctl(PR_CAPBSET_DROP, cap, 0, 0, 0));
      // The C library's own would signal "all threads" of a process whose threads are not here.
      const uid_t id = *plan_.uid;
      check(Step::user_id, static_cast<int>(::syscall(SYS_setresgid, id, id, id)));
      check(Step::user_id, static_cast<int>(::syscall(SYS_setresuid, id, id, id)));
    }
    check(Step::capabilities, ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
    check(Step::capabilities, ::cap_set_proc(plan_.no_capabilities));
  }

  void check(Step step, int result) {
    if (result < 0) fail(step, errno);
  }
  void report(Step step, int err) const {
    const Record record{step, err};
    (void)!::write(report_, &record, sizeof record);
  }
  [[noreturn]] void fail(Step step, int err) const {
    report(step, err);
    ::_exit(127);
  }

  const Plan& plan_;
  int report_;
};

// The few names a server may need. Everything else of ours (credentials that a cluster puts into
// the environment of every container, NOTIFY_SOCKET) is none of its business.
std::vector<std::string> server_environment() {
  std::vector<std::string> entries;
  for (const char* name : {"PATH", "LANG", "TZ", "JOURNAL_STREAM", "ASAN_OPTIONS", "UBSAN_OPTIONS",
                           "TSAN_OPTIONS", "LSAN_OPTIONS"}) {
    const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
    if (value != nullptr) entries.push_back(std::string(name) + "=" + value);
  }
  return entries;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  result.reserve(strings.size() + 1);
  for (std::string& text : strings) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

Result<UniqueFd> high_duplicate(int fd, const char* object) {
  UniqueFd copy(::fcntl(fd, F_DUPFD_CLOEXEC, high_fd_min));
  if (!copy.valid()) return errno_error("dup", object);
  return copy;
}

Result<UniqueFd> open_high(const std::string& path, int flags) {
  UniqueFd fd(::open(path.c_str(), flags | O_CLOEXEC));
  if (!fd.valid()) return errno_error("open", path);
  return high_duplicate(fd.get(), path.c_str());
}

struct FreeCap {
  void operator()(cap_t cap) const { ::cap_free(cap); }
};

}  // namespace

Result<Launch> Launch::start(const LaunchRequest& request) {
  const size_t slash = request.program.rfind('/');
  UBLK_CHECK(slash != std::string::npos);
  auto null = open_high("/dev/null", O_RDWR);
  if (!null) return std::move(null).error();
  auto folder = open_high(request.program.substr(0, slash + 1), O_PATH | O_DIRECTORY);
  if (!folder) return std::move(folder).error();
  auto channel = high_duplicate(request.channel, "channel");
  if (!channel) return std::move(channel).error();
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0) return errno_error("pipe", request.program);
  UniqueFd report_read(pipe_fds[0]);
  UniqueFd report_low(pipe_fds[1]);
  auto report_write = high_duplicate(report_low.get(), "pipe");
  if (!report_write) return std::move(report_write).error();
  report_low.reset();
  const std::unique_ptr<std::remove_pointer_t<cap_t>, FreeCap> no_capabilities(::cap_init());
  if (no_capabilities == nullptr) return errno_error("cap_init", request.program);

  std::vector<std::string> arguments{request.program};
  arguments.insert(arguments.end(), request.arguments.begin(), request.arguments.end());
  std::vector<std::string> environment = server_environment();
  const Plan plan{std::move(null).value(),
                  std::move(channel).value(),
                  std::move(report_write).value(),
                  std::move(folder).value(),
                  request.cgroup_procs,
                  request.program.substr(slash + 1),
                  pointers(arguments),
                  pointers(environment),
                  request.uid,
                  no_capabilities.get(),
                  ::getpid()};
  const pid_t pid = ::fork();
  if (pid < 0) return errno_error("fork", request.program);
  if (pid == 0) Child(plan).run();
  // Nobody has waited for the child, so the number is still its own.
  auto pidfd = Pidfd::open(pid);
  if (!pidfd) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    return std::move(pidfd).error();
  }
  return Launch(pid, std::move(pidfd).value(), std::move(report_read), request);
}

LaunchReport Launch::read_report() {
  LaunchReport report;
  while (true) {
    Record record{};
    const ssize_t n = ::read(report_.get(), &record, sizeof record);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return report;
    // Records are far below PIPE_BUF and arrive whole. End of file: exec closed the pipe, or the
    // child is gone.
    if (n != static_cast<ssize_t>(sizeof record)) {
      report.finished = true;
      return report;
    }
    const auto index = static_cast<size_t>(record.step);
    if (index >= step_texts.size()) continue;
    Error error{record.err, step_texts[index].operation, program_, ""};
    if (!step_texts[index].fatal) {
      report.warnings.push_back(std::move(error));
      continue;
    }
    if (record.step == Step::exec && (record.err == EACCES || record.err == EPERM) && uid_)
      error.detail = "it and its folder must be executable for everybody: servers run as uid " +
                     std::to_string(*uid_) + ", which owns no file";
    report.failure = std::move(error);
  }
}

}  // namespace ublk_operator

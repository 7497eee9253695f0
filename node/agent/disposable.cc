#include "node/agent/disposable.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <memory>
#include <mutex>

#include "common/base/pidfd.h"
#include "common/base/strings.h"
#include "node/agent/device_node.h"
#include "node/ublk/control_device.h"

namespace ublk_operator {

namespace {

class RealDisposable : public Disposable {
 public:
  explicit RealDisposable(std::string program) : program_(std::move(program)) {}
  ~RealDisposable() override { reap_abandoned(); }

  Result<DisposableResult> run(const std::vector<std::string>& arguments,
                               std::chrono::milliseconds timeout) override;

 private:
  void abandon(pid_t pid);
  void reap_abandoned();

  std::string program_;
  std::mutex mutex_;
  std::vector<pid_t> abandoned_;
};

std::string drain(int fd) {
  std::string text;
  char buffer[1024];
  ssize_t n = 0;
  constexpr size_t output_bytes_max = 8192;
  while (text.size() < output_bytes_max && (n = ::read(fd, buffer, sizeof buffer)) > 0)
    text.append(buffer, static_cast<size_t>(n));
  return std::string(trim(text));
}

Result<DisposableResult> RealDisposable::run(const std::vector<std::string>& arguments,
                                             std::chrono::milliseconds timeout) {
  reap_abandoned();
  const std::string what = "helper " + join(arguments, " ");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0) return errno_error("pipe", what);
  UniqueFd output(ends[0]);
  UniqueFd input(ends[1]);

  std::vector<std::string> words{program_, "helper"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (auto& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.get(), STDOUT_FILENO);
  pid_t pid = -1;
  const int failed = ::posix_spawn(&pid, program_.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return Error{failed, "spawn", what, "cannot run " + program_};
  input.reset();

  auto pidfd = Pidfd::open(pid);  // not reaped yet, so the number is still its own
  if (!pidfd) {
    ::kill(pid, SIGKILL);
    abandon(pid);
    return std::move(pidfd).error();
  }
  pollfd wait{pidfd->fd(), POLLIN, 0};
  int ready = 0;
  const auto until = std::chrono::steady_clock::now() + timeout;
  do {
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(until - std::chrono::steady_clock::now());
    ready = ::poll(&wait, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
  } while (ready < 0 && errno == EINTR);
  if (ready == 0) {
    (void)pidfd->kill(SIGKILL);
    abandon(pid);
    return Error{ETIMEDOUT, arguments.front(), what,
                 "the kernel did not answer within " + std::to_string(timeout.count()) +
                     " ms; the outcome is unknown"};
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  DisposableResult result{drain(output.get())};
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return result;
  const int err = WIFEXITED(status) ? WEXITSTATUS(status) : EIO;
  return Error{err, arguments.front(), "ublk" + (arguments.size() > 1 ? arguments[1] : ""),
               result.output};
}

void RealDisposable::abandon(pid_t pid) {
  const std::scoped_lock lock(mutex_);
  abandoned_.push_back(pid);
}

void RealDisposable::reap_abandoned() {
  const std::scoped_lock lock(mutex_);
  std::erase_if(abandoned_, [](pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG) != 0; });
}

int answer(const Error& error) {
  std::printf("%s\n", error.detail.empty() ? error.to_string().c_str() : error.detail.c_str());
  return error.err > 0 && error.err < 126 ? error.err : EIO;
}

}  // namespace

std::unique_ptr<Disposable> make_disposable(const std::string& program) {
  return std::make_unique<RealDisposable>(program);
}

int run_helper(const std::vector<std::string>& arguments) {
  if (arguments.size() != 2)
    return answer({EINVAL, "helper", "", "expected a command and a device number"});
  const std::string& command = arguments[0];
  DeviceId id = 0;
  const auto& number = arguments[1];
  const auto parsed = std::from_chars(number.data(), number.data() + number.size(), id);
  if (parsed.ec != std::errc() || parsed.ptr != number.data() + number.size())
    return answer({EINVAL, "helper", number, "'" + number + "' is not a device number"});

  if (command == "users") {
    auto users = find_disk_users(NodePaths{}, id);
    if (!users) return answer(users.error());
    std::printf("%s\n", users->who.c_str());
    return users->in_use ? EBUSY : 0;
  }
  auto control = open_control_device();
  if (!control) return answer(control.error());
  // No deadline of its own: whoever started this process has one.
  const CallLimit limit{std::chrono::hours(24), -1};
  Result<void> done = Error{EINVAL, "helper", command, "unknown command"};
  if (command == "stop")
    done = (*control)->stop(id, limit);
  else if (command == "try-stop")
    done = (*control)->try_stop(id, limit);
  else if (command == "delete")
    done = (*control)->remove(id, limit);
  else if (command == "delete-async")
    done = (*control)->remove_async(id, limit);
  return done ? 0 : answer(done.error());
}

}  // namespace ublk_operator

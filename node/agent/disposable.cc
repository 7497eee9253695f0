#include "node/agent/disposable.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <memory>
#include <mutex>

#include "common/base/strings.h"
#include "node/agent/device_node.h"
#include "node/agent/helper_process.h"
#include "node/agent/pool.h"
#include "node/ublk/control_device.h"

namespace ublk_operator {

namespace {

class RealDisposable : public Disposable {
 public:
  explicit RealDisposable(std::string program) : program_(std::move(program)) {}

  Result<DisposableResult> run(const std::vector<std::string>& arguments,
                               std::chrono::milliseconds timeout) override;

 private:
  std::string program_;
  std::mutex mutex_;
  struct Abandoned {
    std::string target;
    HelperProcess process;
  };
  std::vector<Abandoned> abandoned_;
};

Result<DisposableResult> RealDisposable::run(const std::vector<std::string>& arguments,
                                             std::chrono::milliseconds timeout) {
  const std::string target = arguments.size() > 1 ? arguments[1] : std::string();
  {
    const std::scoped_lock lock(mutex_);
    std::erase_if(abandoned_, [](Abandoned& left) { return left.process.reap(); });
    // It would wait for what the first one waits for.
    if (std::any_of(abandoned_.begin(), abandoned_.end(),
                    [&](const Abandoned& left) { return left.target == target; }))
      return Error{ETIMEDOUT, arguments.front(), "helper " + join(arguments, " "),
                   "an earlier call for it has not come back from the kernel"};
  }
  auto process = HelperProcess::start(program_, arguments);
  if (!process) return std::move(process).error();
  if (!process->wait(std::chrono::steady_clock::now() + timeout)) {
    process->kill();
    const std::scoped_lock lock(mutex_);
    abandoned_.push_back({target, std::move(*process)});
    return Error{ETIMEDOUT, arguments.front(), "helper " + join(arguments, " "),
                 "the kernel did not answer within " + std::to_string(timeout.count()) +
                     " ms; the outcome is unknown"};
  }
  auto output = process->finish();
  if (output) return DisposableResult{std::move(*output)};
  Error error = std::move(output).error();
  error.object = "ublk" + error.object;
  return error;
}

int answer(const Error& error) {
  std::printf("%s\n", error.detail.empty() ? error.to_string().c_str() : error.detail.c_str());
  return error.err > 0 && error.err < 126 ? error.err : EIO;
}

int tell_pool(const std::vector<std::string>& words) {
  const Pool pool(words[1], words.size() > 2 && words[2] == "require-mount");
  const auto space = look_at_pool(pool);
  if (!space) return answer(space.error());
  std::printf("%llu %llu\n", static_cast<unsigned long long>(space->capacity_bytes),
              static_cast<unsigned long long>(space->free_bytes));
  return 0;
}

}  // namespace

std::unique_ptr<Disposable> make_disposable(const std::string& program) {
  return std::make_unique<RealDisposable>(program);
}

int run_helper(const std::vector<std::string>& arguments) {
  if (arguments.size() >= 2 && arguments[0] == "pool") return tell_pool(arguments);
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

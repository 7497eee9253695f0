#include "tests/vm/lab_node.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "common/api/quantity.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/strings.h"
#include "common/localapi/wait.h"
#include "node/agent/identity.h"

namespace ublk_operator::lab {

namespace {

// Beside the test, so that a build tree works without installing.
std::string program(const std::string& name) {
  const auto self = std::filesystem::read_symlink("/proc/self/exe");
  return (self.parent_path().parent_path() / "bin" / name).string();
}

Pidfd spawn(const std::vector<std::string>& words, const std::string& log_file) {
  const pid_t pid = ::fork();
  UBLK_CHECK(pid >= 0);
  if (pid == 0) {
    const int log = ::open(log_file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log < 0 || ::dup2(log, STDOUT_FILENO) < 0 || ::dup2(log, STDERR_FILENO) < 0) ::_exit(127);
    std::vector<char*> argv;
    for (const auto& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  auto pidfd = Pidfd::open(pid);
  UBLK_CHECK(pidfd.ok());
  return std::move(*pidfd);
}

void end(std::optional<Pidfd>& process, int signal) {
  if (!process) return;
  (void)process->kill(signal);
  ::waitpid(process->pid(), nullptr, 0);
  process.reset();
}

bool is_true(const std::optional<Volume>& volume, const std::string& type) {
  const auto* condition = volume ? find_condition(volume->status.conditions, type) : nullptr;
  return condition != nullptr && condition->status == ConditionStatus::yes;
}

}  // namespace

std::string manifest(const ManifestOptions& options) {
  std::string text =
      "apiVersion: ublk.dev/v1alpha1\n"
      "kind: UblkVolume\n"
      "metadata:\n"
      "  name: " +
      options.name +
      "\n"
      "spec:\n"
      "  size: " +
      options.size +
      "\n"
      "  recovery:\n"
      "    mode: " +
      options.mode + "\n  backend:\n";
  if (options.backend == "null")
    text += "    null: {}\n";
  else
    text +=
        "    file:\n      path: " + (options.path.empty() ? options.name + ".img" : options.path) +
        "\n";
  return text + options.extra;
}

LabNode::LabNode() : LabNode(Options{}) {}

LabNode::LabNode(Options options) : options_(std::move(options)) {
  std::string pattern = "/tmp/ublk-lab.XXXXXX";
  UBLK_CHECK(::mkdtemp(pattern.data()) != nullptr);
  dir_ = pattern;
  ::chmod(dir_.c_str(), 0755);
  pool_ = options_.pool.empty() ? dir("pool") : options_.pool;
  for (const auto& name : {"volumes", "state", "run", "hooks"})
    std::filesystem::create_directories(dir(name));
  std::filesystem::create_directories(pool_);
  auto control = open_control_device();
  UBLK_CHECK(control.ok());
  control_ = std::move(*control);
  api_ = std::make_unique<LocalApiClient>(dir("run/agent.sock"));
  if (options_.start) {
    start_spawner();
    start_agent();
  }
}

LabNode::~LabNode() {
  api_.reset();
  end(agent_, SIGKILL);
  end(spawner_, SIGKILL);  // and all servers with it
  // Devices that are ours by their mark; STOP needs the servers to be dead, and they are.
  if (auto ids = control_->list(); ids) {
    for (const DeviceId id : *ids) {
      auto info = control_->info(id, {limits::command_deadline, -1});
      if (!info || !is_volume_identity(info->identity)) continue;
      (void)control_->stop(id, {limits::command_deadline, -1});
      (void)control_->remove_async(id, {limits::command_deadline, -1});
    }
  }
  if (::testing::Test::HasFailure()) {
    std::printf("--- log of the agent\n%s", shell_output("tail -n 60 " + dir("agent.log")).c_str());
    std::printf("--- log of the spawner\n%s",
                shell_output("tail -n 20 " + dir("spawner.log")).c_str());
  }
  std::error_code ignored;
  std::filesystem::remove_all(dir_, ignored);
  std::filesystem::remove_all("/dev/ublk/by-name", ignored);
}

void LabNode::start_spawner() {
  spawner_ = spawn({program("ublk-node"), "spawner", "--socket", dir("run/spawner.sock")},
                   dir("spawner.log"));
}

void LabNode::start_agent() {
  std::vector<std::string> words{program("ublk-node"),
                                 "--log-level",
                                 "debug",
                                 options_.agent_command,
                                 "--volumes",
                                 volumes(),
                                 "--state",
                                 dir("state"),
                                 "--run",
                                 dir("run"),
                                 "--spawner",
                                 dir("run/spawner.sock"),
                                 "--socket",
                                 dir("run/agent.sock"),
                                 "--pool",
                                 "default=" + pool_,
                                 "--standbys",
                                 std::to_string(options_.standbys),
                                 "--test-hooks",
                                 dir("hooks")};
  words.insert(words.end(), options_.agent_arguments.begin(), options_.agent_arguments.end());
  agent_ = spawn(words, dir("agent.log"));
}

void LabNode::kill_spawner() { end(spawner_, SIGKILL); }
void LabNode::kill_agent() { end(agent_, SIGKILL); }
void LabNode::terminate_agent() { end(agent_, SIGTERM); }

void LabNode::write_manifest(const std::string& file, const std::string& text) const {
  std::ofstream(volumes() + "/" + file) << text;
}

void LabNode::apply(const ManifestOptions& options) const {
  write_manifest(options.name + ".yaml", manifest(options));
}

void LabNode::remove_manifest(const std::string& file) const {
  std::filesystem::remove(volumes() + "/" + file);
}

Volume LabNode::get(const std::string& name) {
  auto volume = api_->get(name);
  EXPECT_TRUE(volume.ok()) << volume.error().to_string();
  return volume ? *volume : Volume{};
}

std::string LabNode::story(const std::string& name) {
  std::string text;
  if (auto volume = api_->get(name); volume) {
    text += "state " + volume->status.state + "\n";
    for (const auto& condition : volume->status.conditions)
      text += "  " + condition.type + "=" + to_string(condition.status) + " " + condition.reason +
              ": " + condition.message + "\n";
  } else {
    text += volume.error().to_string() + "\n";
  }
  for (const auto& event : api_->events(name))
    text += "  event " + event.reason + " x" + std::to_string(event.count) + ": " + event.message +
            "\n";
  return text;
}

bool LabNode::wait(const std::string& name, const std::string& what,
                   const std::function<bool(const std::optional<Volume>&)>& done,
                   std::chrono::milliseconds timeout) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  Result<void> result;
  do {  // an agent that is just starting does not answer yet
    result = wait_for(*api_, name, done, deadline);
    if (result.err() == ENOTCONN) std::this_thread::sleep_for(20ms);
  } while (result.err() == ENOTCONN && std::chrono::steady_clock::now() < deadline);
  if (!result)
    ADD_FAILURE() << "waited for volume " << name << " to be " << what << ": "
                  << result.error().to_string() << "\n"
                  << story(name);
  return result.ok();
}

bool LabNode::wait_ready(const std::string& name) {
  return wait(name, "Ready", [](const auto& volume) { return is_true(volume, "Ready"); });
}

bool LabNode::wait_gone(const std::string& name) {
  return wait(name, "gone", [](const auto& volume) { return !volume; });
}

bool LabNode::wait_condition(const std::string& name, const std::string& type,
                             const std::string& status, const std::string& reason) {
  return wait(name, type + "=" + status + " " + reason, [&](const auto& volume) {
    const auto* condition = volume ? find_condition(volume->status.conditions, type) : nullptr;
    return condition != nullptr && to_string(condition->status) == status &&
           (reason.empty() || condition->reason == reason);
  });
}

bool LabNode::wait_recovered(const std::string& name, uint64_t more_than) {
  return wait(
      name, "recovered " + std::to_string(more_than + 1) + " times", [&](const auto& volume) {
        return volume && volume->status.recovery_count > more_than && is_true(volume, "Ready");
      });
}

bool LabNode::has_event(const std::string& name, const std::string& reason) {
  for (const auto& event : api_->events(name))
    if (event.reason == reason) return true;
  return false;
}

pid_t LabNode::server_pid(const std::string& name) {
  const Volume volume = get(name);
  return static_cast<pid_t>(volume.status.server_pid.value_or(-1));
}

void LabNode::kill_server(const std::string& name) {
  const pid_t pid = server_pid(name);
  ASSERT_GT(pid, 0) << story(name);
  kill_and_wait(pid);
}

void LabNode::hook(const std::string& volume, const std::string& point) const {
  ASSERT_EQ(::mkfifo(dir("hooks/" + volume + "." + point).c_str(), 0600), 0);
}

pid_t LabNode::wait_hook(const std::string& volume, const std::string& point) const {
  const UniqueFd fifo(::open(dir("hooks/" + volume + "." + point).c_str(), O_RDWR | O_CLOEXEC));
  pollfd ready{fifo.get(), POLLIN, 0};
  const int arrived =
      ::poll(&ready, 1, static_cast<int>(std::chrono::milliseconds(patience).count()));
  EXPECT_EQ(arrived, 1) << "nobody reached " << point;
  char text[32] = {};
  if (arrived != 1 || ::read(fifo.get(), text, sizeof text - 1) <= 0) return -1;
  return static_cast<pid_t>(std::strtol(text, nullptr, 10));
}

void LabNode::unhook(const std::string& volume, const std::string& point) const {
  std::filesystem::remove(dir("hooks/" + volume + "." + point));
}

bool LabNode::kill_at(const std::string& volume, const std::string& point) {
  const pid_t pid = wait_hook(volume, point);
  if (pid <= 0) {
    ADD_FAILURE() << "no server got to " << point << "\n" << story(volume);
    return false;
  }
  unhook(volume, point);
  kill_and_wait(pid);
  return true;
}

std::string LabNode::kernel_state(const std::string& name) {
  const auto id = get(name).status.device_id;
  if (!id) return "absent";
  auto info = control_->info(*id, {limits::command_deadline, -1});
  return info ? to_string(info->state) : errno_name(info.err());
}

pid_t LabNode::kernel_server_pid(const std::string& name) {
  const auto id = get(name).status.device_id;
  if (!id) return -1;
  auto info = control_->info(*id, {limits::command_deadline, -1});
  return info ? info->server_pid : -1;
}

bool comes_true(const std::function<bool()>& what) {
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!what()) {
    if (std::chrono::steady_clock::now() >= until) return false;
    ::poll(nullptr, 0, 2);
  }
  return true;
}

void kill_and_wait(pid_t pid) {
  auto process = Pidfd::open(pid);
  if (!process) return;  // gone already
  (void)process->kill(SIGKILL);
  pollfd exited{process->fd(), POLLIN, 0};
  ASSERT_EQ(::poll(&exited, 1, static_cast<int>(std::chrono::milliseconds(patience).count())), 1);
}

uint64_t kernel_features() {
  auto control = open_control_device();
  UBLK_CHECK(control.ok());
  auto features = (*control)->features({limits::command_deadline, -1});
  return features ? *features : 0;
}

bool can_fail_io() { return (kernel_features() & flags::user_recovery_fail_io) != 0; }
bool repeats_recovery() { return can_fail_io(); }

int shell(const std::string& command) {
  const int status = std::system(command.c_str());  // NOLINT(concurrency-mt-unsafe,cert-env33-c)
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string shell_output(const std::string& command) {
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");  // NOLINT(cert-env33-c)
  if (pipe == nullptr) return {};
  std::string text;
  char buffer[4096];
  size_t n = 0;
  while ((n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0) text.append(buffer, n);
  ::pclose(pipe);
  return text;
}

}  // namespace ublk_operator::lab

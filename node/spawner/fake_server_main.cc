// A server as the spawner sees one: says "ready" on its channel, answers questions about itself,
// and ends as it is told. Started with {program, "--channel", "3", "--arena", N}.
#include <dirent.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "common/base/files.h"
#include "common/base/strings.h"
#include "common/ipc/message_socket.h"

namespace {

using namespace ublk_operator;
using nlohmann::json;

std::vector<int> open_descriptors() {
  std::vector<int> fds;
  DIR* folder = ::opendir("/proc/self/fd");
  const int own = ::dirfd(folder);
  while (const dirent* entry = ::readdir(folder)) {  // NOLINT(concurrency-mt-unsafe)
    const int fd = std::atoi(entry->d_name);         // NOLINT(cert-err34-c): numbers and dots
    if (entry->d_name[0] != '.' && fd != own) fds.push_back(fd);
  }
  ::closedir(folder);
  return fds;
}

// task_struct::flags, field 9 of /proc/PID/stat.
unsigned long flags_of_this_thread() {
  const auto text = read_file("/proc/thread-self/stat", 4096);
  if (!text) return 0;
  const auto fields = split(std::string_view(*text).substr(text->rfind(')') + 2), ' ');
  return std::stoul(std::string(fields.at(9 - 3)));
}

json describe(const std::vector<std::string>& arguments) {
  unsigned long later_thread = 0;
  std::thread([&later_thread] { later_thread = flags_of_this_thread(); }).join();
  int death_signal = 0;
  ::prctl(PR_GET_PDEATHSIG, &death_signal);
  std::vector<std::string> environment;
  for (char** entry = environ; *entry != nullptr; ++entry) environment.emplace_back(*entry);
  const auto cgroup = read_file("/proc/self/cgroup", 1 << 16);
  const auto score = read_file("/proc/self/oom_score_adj", 64);
  return {{"type", "described"},
          {"arguments", arguments},
          {"environment", environment},
          {"descriptors", open_descriptors()},
          {"main_flags", flags_of_this_thread()},
          {"later_thread_flags", later_thread},
          {"death_signal", death_signal},
          {"session", ::getsid(0)},
          {"cgroup", cgroup ? *cgroup : ""},
          {"oom_score_adj", score ? *score : ""}};
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv, argv + argc);
  const MessageSocket channel(UniqueFd(3));
  if (!channel.send({{"type", "ready"}})) return 3;
  while (true) {
    const auto message = channel.receive(std::chrono::hours(1));
    if (!message) return 4;
    const std::string type = message->body.value("type", "");
    if (type == "exit") return message->body.value("code", 0);
    if (type == "die") ::raise(message->body.value("signal", 9));
    if (type == "prepare" &&
        !channel.send({{"type", "prepared"}, {"geometry", message->body.at("geometry")}}))
      return 6;
    if (type == "describe" && !channel.send(describe(arguments))) return 5;
  }
}

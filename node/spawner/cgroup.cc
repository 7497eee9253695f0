#include "node/spawner/cgroup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "common/base/cgroup.h"
#include "common/base/files.h"
#include "common/base/strings.h"

namespace ublk_operator {

namespace {

constexpr size_t proc_file_bytes_max = 1 << 20;

Result<void> write_value(const std::string& path, std::string_view value) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return errno_error("open", path);
  return write_all(fd.get(), value, path);
}

// OWN: where we are, or the cgroup above if the one before us moved our watchdog, and so us.
Result<std::string> own_directory() {
  auto own = own_cgroup_folder();
  constexpr std::string_view moved = "/spawner";
  if (!own || !own->ends_with(moved)) return own;
  const std::string above = own->substr(0, own->size() - moved.size());
  return ::access((above + "/servers").c_str(), F_OK) == 0 ? above : *own;
}

bool has_word(std::string_view text, std::string_view word) {
  const auto words = split(trim(text), ' ');
  return std::find(words.begin(), words.end(), word) != words.end();
}

struct Members {
  std::vector<std::string> us;  // this process and the one above it
  std::vector<std::string> strangers;
};
Result<Members> strangers_and_us(const std::string& folder) {
  auto text = read_file(folder + "/cgroup.procs", proc_file_bytes_max);
  if (!text) return std::move(text).error();
  const std::string self = std::to_string(::getpid());
  const std::string above = std::to_string(::getppid());
  Members members;
  for (const auto member : split(trim(*text), '\n')) {
    if (member.empty()) continue;
    const bool is_us = member == self || member == above;
    (is_us ? members.us : members.strangers).emplace_back(member);
  }
  return members;
}

// False too for one that has just ended.
bool runs_our_program(const std::string& process) {
  struct stat ours{};
  struct stat theirs{};
  return ::stat("/proc/self/exe", &ours) == 0 &&
         ::stat(("/proc/" + process + "/exe").c_str(), &theirs) == 0 &&
         ours.st_dev == theirs.st_dev && ours.st_ino == theirs.st_ino;
}

Error shared_with(const std::string& folder, const std::string& process) {
  return Error{EBUSY, "use", folder, "other processes share this cgroup (" + process + ")"};
}

// The leaves of a predecessor whose servers are gone.
void remove_empty_leaves(const std::string& spawner, const std::string& servers) {
  ::rmdir(spawner.c_str());
  ::rmdir(servers.c_str());
}

}  // namespace

Result<ServerCgroups> ServerCgroups::create() {
  auto own = own_directory();
  if (!own) return std::move(own).error();
  auto controllers = read_file(*own + "/cgroup.controllers", proc_file_bytes_max);
  if (!controllers) return std::move(controllers).error();
  if (!has_word(*controllers, "memory"))
    return Error{ENOTSUP, "use", *own, "the memory controller is not delegated to this cgroup"};

  const std::string spawner = *own + "/spawner";
  const std::string servers = *own + "/servers";
  // The root of the whole hierarchy has no cgroup.type and may hold processes beside children;
  // everything else must be emptied of processes, and only our own are ours to move: this one, and
  // the watchdog above it.
  const bool is_root = ::access((*own + "/cgroup.type").c_str(), F_OK) < 0;
  std::vector<std::string> ours;
  if (!is_root) {
    auto here = strangers_and_us(*own);
    if (!here) return std::move(here).error();
    if (!here->strangers.empty()) return shared_with(*own, here->strangers.front());
    ours = std::move(here->us);
    auto beside = strangers_and_us(spawner);
    if (!beside && beside.err() != ENOENT) return std::move(beside).error();
    // A shell that somebody opened in the container is put beside the watchdog and is in nobody's
    // way; a spawner there has the leaves.
    if (beside)
      for (const auto& stranger : beside->strangers)
        if (runs_our_program(stranger)) return shared_with(spawner, stranger);
  }

  const auto give_up = [&](Error error) {
    for (const auto& process : ours) (void)write_value(*own + "/cgroup.procs", process);
    remove_empty_leaves(spawner, servers);
    return error;
  };
  for (const std::string& folder : {spawner, servers})
    if (::mkdir(folder.c_str(), 0755) < 0 && errno != EEXIST)
      return give_up(errno_error("mkdir", folder));
  for (const auto& process : ours)
    if (auto moved = write_value(spawner + "/cgroup.procs", process); !moved)
      return give_up(moved.error());
  for (const std::string& folder : {*own, servers})
    if (auto enabled = write_value(folder + "/cgroup.subtree_control", "+memory"); !enabled)
      return give_up(enabled.error());
  ServerCgroups cgroups;
  cgroups.servers_ = servers;
  return cgroups;
}

Result<UniqueFd> ServerCgroups::add(uint64_t id, uint64_t memory_max_bytes) {
  if (!available()) return Error{ENOTSUP, "mkdir", "cgroup", "no cgroup is ours"};
  const std::string leaf = servers_ + "/" + std::to_string(id);
  // One that a spawner before us left counts that one's servers; EEXIST: it is not released yet.
  ::rmdir(leaf.c_str());
  if (::mkdir(leaf.c_str(), 0755) < 0 && errno != EEXIST) return errno_error("mkdir", leaf);
  const std::string limit = memory_max_bytes == 0 ? "max" : std::to_string(memory_max_bytes);
  if (auto set = write_value(leaf + "/memory.max", limit); !set) return std::move(set).error();
  // A leaf holds one process: killing "the group" is the same, and saying so keeps a parent's
  // setting out of it.
  if (auto set = write_value(leaf + "/memory.oom.group", "0"); !set) return std::move(set).error();
  UniqueFd procs(::open((leaf + "/cgroup.procs").c_str(), O_WRONLY | O_CLOEXEC));
  if (!procs.valid()) return errno_error("open", leaf + "/cgroup.procs");
  return procs;
}

bool ServerCgroups::out_of_memory(uint64_t id) const {
  if (!available()) return false;
  const auto events =
      read_file(servers_ + "/" + std::to_string(id) + "/memory.events", proc_file_bytes_max);
  if (!events) return false;
  for (const auto line : split(*events, '\n'))
    if (line.starts_with("oom_kill ")) return line != "oom_kill 0";
  return false;
}

void ServerCgroups::remove(uint64_t id) {
  if (!available()) return;
  busy_.push_back(servers_ + "/" + std::to_string(id));
  std::erase_if(
      busy_, [](const std::string& leaf) { return ::rmdir(leaf.c_str()) == 0 || errno == ENOENT; });
}

}  // namespace ublk_operator

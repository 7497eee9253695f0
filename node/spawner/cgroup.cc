#include "node/spawner/cgroup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

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

// Where cgroup2 is mounted, and which part of it: fields 4 (root) and 5 (mount point) of
// /proc/self/mountinfo, proc(5). Paths with escaped blanks are not looked for.
Result<std::pair<std::string, std::string>> find_cgroup2() {
  auto text = read_file("/proc/self/mountinfo", proc_file_bytes_max);
  if (!text) return std::move(text).error();
  for (const auto line : split(*text, '\n')) {
    const size_t dash = line.find(" - ");
    if (dash == std::string_view::npos || !line.substr(dash + 3).starts_with("cgroup2 ")) continue;
    const auto fields = split(line.substr(0, dash), ' ');
    if (fields.size() < 6) continue;
    return std::pair(std::string(fields[3]), std::string(fields[4]));
  }
  return Error{ENOTSUP, "find", "cgroup2", "no cgroup v2 hierarchy is mounted"};
}

// The path after "0::" of /proc/self/cgroup.
Result<std::string> own_path() {
  auto text = read_file("/proc/self/cgroup", proc_file_bytes_max);
  if (!text) return std::move(text).error();
  for (const auto line : split(*text, '\n'))
    if (line.starts_with("0::")) return std::string(line.substr(3));
  return Error{ENOTSUP, "find", "cgroup", "this process is in no cgroup v2"};
}

Result<std::string> own_directory() {
  auto mount = find_cgroup2();
  if (!mount) return std::move(mount).error();
  auto path = own_path();
  if (!path) return std::move(path).error();
  // A container may see only a part of the hierarchy; its root is then cut from our path.
  std::string relative = *path;
  if (const std::string& root = mount->first; root != "/" && relative.starts_with(root))
    relative.erase(0, root.size());
  if (relative == "/") relative.clear();
  std::string own = mount->second + relative;
  // Where the one before us moved our watchdog, and so us.
  constexpr std::string_view moved = "/spawner";
  if (own.ends_with(moved)) {
    const std::string above = own.substr(0, own.size() - moved.size());
    if (::access((above + "/servers").c_str(), F_OK) == 0) own = above;
  }
  return own;
}

bool has_word(std::string_view text, std::string_view word) {
  const auto words = split(trim(text), ' ');
  return std::find(words.begin(), words.end(), word) != words.end();
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
    const std::vector<std::string> may_be{std::to_string(::getpid()), std::to_string(::getppid())};
    for (const std::string& folder : {*own, spawner}) {
      auto members = read_file(folder + "/cgroup.procs", proc_file_bytes_max);
      if (!members && members.err() == ENOENT) continue;
      if (!members) return std::move(members).error();
      for (const auto member : split(trim(*members), '\n')) {
        if (member.empty()) continue;
        if (std::find(may_be.begin(), may_be.end(), member) == may_be.end())
          return Error{EBUSY, "use", folder,
                       "other processes share this cgroup (" + std::string(member) + ")"};
        if (folder == *own) ours.emplace_back(member);
      }
    }
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
  // EEXIST: left by a spawner before us whose server has not been released yet.
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

void ServerCgroups::remove(uint64_t id) {
  if (!available()) return;
  busy_.push_back(servers_ + "/" + std::to_string(id));
  std::erase_if(
      busy_, [](const std::string& leaf) { return ::rmdir(leaf.c_str()) == 0 || errno == ENOENT; });
}

}  // namespace ublk_operator

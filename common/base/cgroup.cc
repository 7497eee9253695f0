#include "common/base/cgroup.h"

#include <cerrno>
#include <string_view>
#include <utility>

#include "common/base/error.h"
#include "common/base/files.h"
#include "common/base/strings.h"

namespace ublk_operator {

namespace {

constexpr size_t proc_file_bytes_max = 1 << 20;

// Where cgroup2 is mounted, and which part of it: fields 4 (root) and 5 (mount point). Paths with
// escaped blanks are not looked for.
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

// The path after "0::".
Result<std::string> own_path() {
  auto text = read_file("/proc/self/cgroup", proc_file_bytes_max);
  if (!text) return std::move(text).error();
  for (const auto line : split(*text, '\n'))
    if (line.starts_with("0::")) return std::string(line.substr(3));
  return Error{ENOTSUP, "find", "cgroup", "this process is in no cgroup v2"};
}

}  // namespace

Result<std::string> own_cgroup_folder() {
  auto mount = find_cgroup2();
  if (!mount) return std::move(mount).error();
  auto path = own_path();
  if (!path) return std::move(path).error();
  // A container may see only a part of the hierarchy; its root is then cut from our path.
  std::string relative = *path;
  if (const std::string& root = mount->first; root != "/" && relative.starts_with(root))
    relative.erase(0, root.size());
  if (relative == "/") relative.clear();
  return mount->second + relative;
}

}  // namespace ublk_operator

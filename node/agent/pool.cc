#include "node/agent/pool.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <optional>

#include "common/base/strings.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {

namespace {

constexpr std::string_view mount_option = ",require-mount";
constexpr uint64_t mount_root = 0x2000;  // STATX_ATTR_MOUNT_ROOT (linux/stat.h, since 5.8)

// As the kernel writes a path there: blanks and backslashes in octal (seq_path,
// fs/proc_namespace.c).
std::string plain(std::string_view escaped) {
  std::string text;
  for (size_t i = 0; i < escaped.size(); ++i) {
    const auto digit = [&](size_t n) {
      return i + n < escaped.size() && escaped[i + n] >= '0' && escaped[i + n] <= '7';
    };
    if (escaped[i] == '\\' && digit(1) && digit(2) && digit(3)) {
      text += static_cast<char>((escaped[i + 1] - '0') * 64 + (escaped[i + 2] - '0') * 8 +
                                (escaped[i + 3] - '0'));
      i += 3;
    } else {
      text += escaped[i];
    }
  }
  return text;
}

std::string without_end_slash(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

std::string resolved(const std::string& path) {
  const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), &::free);
  return real ? std::string(real.get()) : path;
}

Result<bool> is_listed(const std::string& mounts, const std::string& path) {
  std::ifstream file(mounts);
  if (!file) return errno_error("open", mounts);
  std::string line;
  while (std::getline(file, line)) {
    const auto fields = split(line, ' ');
    if (fields.size() > 4 && plain(fields[4]) == path) return true;
  }
  return false;
}

}  // namespace

Result<std::pair<std::string, Pool>> parse_pool(const std::string& text) {
  std::string_view rest = text;
  const bool mount = rest.ends_with(mount_option);
  if (mount) rest.remove_suffix(mount_option.size());
  const size_t equals = rest.find('=');
  if (equals == std::string_view::npos || equals == 0 || equals + 1 >= rest.size() ||
      rest[equals + 1] != '/' || rest.find(',') != std::string_view::npos)
    return Error{EINVAL, "parse", "--pool " + text,
                 "expected NAME=/absolute/folder or NAME=/absolute/folder,require-mount"};
  return std::pair{std::string(rest.substr(0, equals)),
                   Pool(std::string(rest.substr(equals + 1)), mount)};
}

Result<void> check_mounted(const Pool& pool, int folder, const std::string& mounts) {
  if (!pool.require_mount) return {};
  const Error missing{ENOMEDIUM, "check_pool", pool.path,
                      "it is no mount point, and this pool is one that must be (require-mount): "
                      "mount its file system there"};
  struct statx info{};
  if (::statx(folder, "", AT_EMPTY_PATH | AT_NO_AUTOMOUNT, 0, &info) < 0)
    return errno_error("statx", pool.path);
  if ((info.stx_attributes_mask & mount_root) != 0 && (info.stx_attributes & mount_root) == 0)
    return missing;
  for (const std::string& path : {without_end_slash(pool.path), resolved(pool.path)}) {
    const auto listed = is_listed(mounts, path);
    if (!listed) return listed.error();
    if (*listed) return {};
  }
  return missing;
}

Result<PoolSpace> look_at_pool(const Pool& pool, const std::string& mounts) {
  const UniqueFd folder(::open(pool.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid())
    return errno_error("open", pool.path, "the folder of the pool cannot be looked at");
  if (auto mounted = check_mounted(pool, folder.get(), mounts); !mounted) return mounted.error();
  struct statvfs space{};
  if (::fstatvfs(folder.get(), &space) < 0)
    return errno_error("statvfs", pool.path, "the folder of the pool cannot be looked at");
  return PoolSpace{uint64_t{space.f_blocks} * space.f_frsize,
                   uint64_t{space.f_bavail} * space.f_frsize};
}

}  // namespace ublk_operator

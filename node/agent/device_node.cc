#include "node/agent/device_node.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string_view>
#include <vector>

#include "common/base/files.h"
#include "common/base/strings.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {

namespace {

// An entry of the user database is far smaller; a group of thousands of members is not.
constexpr size_t entry_bytes_max = 1 << 20;
constexpr size_t small_file_bytes_max = 4096;
constexpr size_t mountinfo_bytes_max = 16 << 20;
// What find_disk_users looks at before it gives up: seconds of work, and more than any node has.
constexpr size_t open_files_max = 1 << 20;
// Users that are named: enough to see more than one that comes and goes, such as udev's worker.
constexpr size_t users_max = 4;

std::string block_name(DeviceId id) { return "ublkb" + std::to_string(id); }

std::optional<uint32_t> number(std::string_view text) {
  uint32_t value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  // (uid_t)-1 means "leave as it is" to chown.
  if (failed != std::errc{} || end != text.data() + text.size() || value == UINT32_MAX)
    return std::nullopt;
  return value;
}

// `lookup(buffer)` is getpwnam_r or getgrnam_r; it returns their result.
template <typename Lookup>
int with_buffer(Lookup lookup) {
  for (size_t bytes = 1024;; bytes *= 2) {
    std::vector<char> buffer(bytes);
    const int result = lookup(buffer);
    if (result != ERANGE || bytes >= entry_bytes_max) return result;
  }
}

Error unknown_name(const char* what, const std::string& name, int lookup_result) {
  std::string detail = "this machine knows no " + std::string(what) + " '" + name + "' (device." +
                       (what == std::string_view("user") ? "owner" : "group") +
                       "): create it, or give a number";
  if (lookup_result != 0) detail += "; looking it up failed: " + errno_name(lookup_result);
  return Error{EINVAL, "look_up_" + std::string(what), name, std::move(detail)};
}

struct Ids {
  uid_t uid = 0;
  gid_t gid = 0;
};

Result<Ids> resolve(const DeviceAccess& access) {
  Ids ids;
  if (const auto uid = number(access.owner)) {
    ids.uid = *uid;
  } else {
    struct passwd entry{};
    struct passwd* found = nullptr;
    const int result = with_buffer([&](std::vector<char>& buffer) {
      const int rc =
          ::getpwnam_r(access.owner.c_str(), &entry, buffer.data(), buffer.size(), &found);
      if (found != nullptr) ids.uid = entry.pw_uid;
      return rc;
    });
    if (found == nullptr) return unknown_name("user", access.owner, result);
  }
  if (const auto gid = number(access.group)) {
    ids.gid = *gid;
  } else {
    struct group entry{};
    struct group* found = nullptr;
    const int result = with_buffer([&](std::vector<char>& buffer) {
      const int rc =
          ::getgrnam_r(access.group.c_str(), &entry, buffer.data(), buffer.size(), &found);
      if (found != nullptr) ids.gid = entry.gr_gid;
      return rc;
    });
    if (found == nullptr) return unknown_name("group", access.group, result);
  }
  return ids;
}

// The node itself, whatever is put in its place meanwhile: O_PATH opens nothing, so that neither
// the driver nor a server that is waited for notices.
Result<UniqueFd> hold_node(const std::string& path, mode_t kind) {
  UniqueFd node(::open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (!node.valid()) return errno_error("open_device_node", path);
  struct stat info{};
  if (::fstat(node.get(), &info) < 0) return errno_error("stat_device_node", path);
  if ((info.st_mode & S_IFMT) != kind)
    return Error{EINVAL, "open_device_node", path,
                 std::string("is not a ") + (kind == S_IFBLK ? "block" : "character") +
                     " device: was it removed, or is another /dev mounted here?"};
  return node;
}

Result<void> set_access(const UniqueFd& node, const std::string& path, const Ids& ids,
                        mode_t mode) {
  struct stat now{};
  if (::fstat(node.get(), &now) < 0) return errno_error("stat_device_node", path);
  if (now.st_uid == ids.uid && now.st_gid == ids.gid && (now.st_mode & 07777) == mode) return {};
  // chmod(2) takes no O_PATH descriptor, but a path through /proc. The narrowest mode first, so
  // that the new owner never has the rights of the old one, nor the reverse.
  const std::string handle = "/proc/self/fd/" + std::to_string(node.get());
  if (::chmod(handle.c_str(), mode & 0600) < 0) return errno_error("chmod", path);
  if (::fchownat(node.get(), "", ids.uid, ids.gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) < 0)
    return errno_error("chown", path);
  if (::chmod(handle.c_str(), mode) < 0) return errno_error("chmod", path);
  return {};
}

Result<std::string> link_path(const NodePaths& paths, const std::string& name) {
  if (name.empty() || name.front() == '.' || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos)
    return Error{EINVAL, "link_device", "volume " + name, "not usable as the name of a link"};
  return paths.by_name_dir + "/" + name;
}

std::string link_target(DeviceId id) { return "../../" + block_name(id); }

// --- find_disk_users -----------------------------------------------------------------------------

struct DirectoryCloser {
  void operator()(DIR* directory) const { ::closedir(directory); }
};
using Directory = std::unique_ptr<DIR, DirectoryCloser>;

std::string device_number(dev_t device) {
  return std::to_string(major(device)) + ":" + std::to_string(minor(device));
}

std::optional<dev_t> parse_device_number(std::string_view text) {
  const auto parts = split(trim(text), ':');
  if (parts.size() != 2) return std::nullopt;
  const auto first = number(parts[0]);
  const auto second = number(parts[1]);
  if (!first || !second) return std::nullopt;
  return makedev(*first, *second);
}

// The disk and its partitions.
std::set<dev_t> devices_of(const NodePaths& paths, dev_t disk) {
  std::set<dev_t> devices{disk};
  const std::string folder = paths.sys_dir + "/dev/block/" + device_number(disk);
  std::error_code failed;
  for (std::filesystem::directory_iterator entry(folder, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    std::error_code missing;
    if (!std::filesystem::exists(entry->path() / "partition", missing)) continue;
    const auto text = read_file((entry->path() / "dev").string(), small_file_bytes_max);
    if (!text) continue;
    if (const auto device = parse_device_number(*text)) devices.insert(*device);
  }
  return devices;
}

// mountinfo writes space, tab, newline and backslash as three octal digits.
std::string unescape(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      uint32_t code = 0;
      const auto [end, failed] = std::from_chars(&text[i] + 1, &text[i] + 4, code, 8);
      if (failed == std::errc{} && end == &text[i] + 4) {
        out += static_cast<char>(code);
        i += 3;
        continue;
      }
    }
    out += text[i];
  }
  return out;
}

// "mounted at /mnt", if one of the devices is mounted in the mount namespace of this process.
std::string find_mount(const std::string& process_dir, const std::set<dev_t>& devices,
                       const std::string& node_path) {
  const auto text = read_file(process_dir + "/mountinfo", mountinfo_bytes_max);
  if (!text) return {};
  for (const std::string_view line : split(*text, '\n')) {
    const auto fields = split(line, ' ');
    if (fields.size() < 10) continue;
    const auto device = parse_device_number(fields[2]);
    // Behind a "-": type and source. btrfs shows a number of its own, but the device as source.
    const auto dash = std::find(fields.begin() + 6, fields.end(), std::string_view("-"));
    const bool by_source = fields.end() - dash > 2 && dash[2] == node_path;
    if ((device && devices.contains(*device)) || by_source)
      return "mounted at " + unescape(fields[4]);
  }
  return {};
}

// True: this process has one of the devices open. `looked_at` counts on over all processes.
bool has_open(const std::string& process_dir, const std::set<dev_t>& devices, size_t& looked_at) {
  const std::string folder = process_dir + "/fd";
  const Directory files(::opendir(folder.c_str()));
  if (!files) return false;
  while (const dirent* entry = ::readdir(files.get())) {
    if (entry->d_name[0] == '.') continue;
    if (++looked_at > open_files_max) return false;
    // No synchronisation: a file on a dead NFS or FUSE server must not hold this up.
    struct statx info{};
    if (::statx(::dirfd(files.get()), entry->d_name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
                STATX_TYPE, &info) < 0)
      continue;
    if (S_ISBLK(info.stx_mode) &&
        devices.contains(makedev(info.stx_rdev_major, info.stx_rdev_minor)))
      return true;
  }
  return false;
}

}  // namespace

Result<void> announce_device(const NodePaths& paths, const std::string& name, DeviceId id,
                             const DeviceAccess& access) {
  auto ids = resolve(access);
  if (!ids) return ids.error();
  if (auto made = make_directories(paths.udev_dir); !made) return made;
  char mode[8];
  std::snprintf(mode, sizeof mode, "0%03o", access.mode & 0777U);
  const std::string text = "UBLK_OPERATOR_MODE=" + std::string(mode) +
                           "\nUBLK_OPERATOR_OWNER=" + std::to_string(ids->uid) +
                           "\nUBLK_OPERATOR_GROUP=" + std::to_string(ids->gid) +
                           "\nUBLK_OPERATOR_NAME=" + name + "\n";
  return write_file_atomically(paths.udev_dir + "/" + block_name(id), text, 0644,
                               Durability::process);
}

Result<void> apply_access(const NodePaths& paths, DeviceId id, const DeviceAccess& access) {
  auto ids = resolve(access);
  if (!ids) return ids.error();
  const std::string path = paths.dev_dir + "/" + block_name(id);
  auto node = hold_node(path, S_IFBLK);
  if (!node) return node.error();
  return set_access(*node, path, *ids, access.mode & 0777U);
}

Result<void> give_char_device(const NodePaths& paths, DeviceId id, uid_t uid) {
  const std::string path = paths.dev_dir + "/ublkc" + std::to_string(id);
  auto node = hold_node(path, S_IFCHR);
  if (!node) return node.error();
  return set_access(*node, path, Ids{uid, 0}, 0600);
}

Result<void> link_device(const NodePaths& paths, const std::string& name, DeviceId id) {
  auto path = link_path(paths, name);
  if (!path) return path.error();
  char target[256];
  const ssize_t length = ::readlink(path->c_str(), target, sizeof target);
  if (length > 0 && std::string_view(target, static_cast<size_t>(length)) == link_target(id))
    return {};
  if (auto made = make_directories(paths.by_name_dir); !made) return made;
  // Named after the device, which is one volume's at a time, not after the volume: a name of the
  // longest length has no room for a suffix. The leading dot is in no volume's name.
  const std::string temporary = paths.by_name_dir + "/." + block_name(id) + ".tmp";
  if (::unlink(temporary.c_str()) < 0 && errno != ENOENT) return errno_error("unlink", temporary);
  if (::symlink(link_target(id).c_str(), temporary.c_str()) < 0)
    return errno_error("symlink", temporary);
  if (::rename(temporary.c_str(), path->c_str()) < 0) {
    Error error = errno_error("rename", *path);
    ::unlink(temporary.c_str());
    return error;
  }
  return {};
}

Result<void> unlink_device(const NodePaths& paths, const std::string& name, DeviceId id) {
  auto path = link_path(paths, name);
  if (!path) return path.error();
  const std::string rule = paths.udev_dir + "/" + block_name(id);
  if (::unlink(rule.c_str()) < 0 && errno != ENOENT) return errno_error("unlink", rule);
  char target[256];
  const ssize_t length = ::readlink(path->c_str(), target, sizeof target);
  // EINVAL: not a link, so not ours.
  if (length < 0)
    return errno == ENOENT || errno == EINVAL ? Result<void>{} : errno_error("readlink", *path);
  if (std::string_view(target, static_cast<size_t>(length)) != link_target(id)) return {};
  if (::unlink(path->c_str()) < 0 && errno != ENOENT) return errno_error("unlink", *path);
  return {};
}

Result<DiskUsers> find_disk_users(const NodePaths& paths, DeviceId id) {
  const std::string path = paths.dev_dir + "/" + block_name(id);
  auto node = hold_node(path, S_IFBLK);
  if (!node) return node.error();
  struct stat info{};
  if (::fstat(node->get(), &info) < 0) return errno_error("stat_device_node", path);
  bool claimed = false;
  {
    // Closed again at once, before the open files are looked at.
    const std::string handle = "/proc/self/fd/" + std::to_string(node->get());
    const UniqueFd exclusive(::open(handle.c_str(), O_RDONLY | O_EXCL | O_NONBLOCK | O_CLOEXEC));
    claimed = !exclusive.valid() && errno == EBUSY;
    if (!exclusive.valid() && !claimed) return errno_error("open", path);
  }
  node->reset();  // or the search below would find this process

  const std::set<dev_t> devices = devices_of(paths, info.st_rdev);
  const Directory processes(::opendir(paths.proc_dir.c_str()));
  if (!processes) return errno_error("opendir", paths.proc_dir);
  std::vector<std::string> running;
  while (const dirent* entry = ::readdir(processes.get()))
    if (number(entry->d_name)) running.emplace_back(entry->d_name);

  std::vector<std::string> users;
  std::set<std::string> namespaces;
  for (const std::string& pid : running) {
    if (users.size() == users_max) break;
    const std::string process_dir = paths.proc_dir + "/" + pid;
    std::error_code unreadable;
    const auto mounts = std::filesystem::read_symlink(process_dir + "/ns/mnt", unreadable);
    if (unreadable || !namespaces.insert(mounts.string()).second) continue;
    std::string mount = find_mount(process_dir, devices, path);
    // The same mount in the namespaces of many containers is one user.
    if (!mount.empty() && std::find(users.begin(), users.end(), mount) == users.end())
      users.push_back(std::move(mount));
  }
  // Enough to tell people what to unmount; the search of every open file is the costly part, and is
  // repeated while the disk is in use.
  if (!users.empty()) return DiskUsers{true, join(users, ", ")};

  size_t looked_at = 0;
  for (const std::string& pid : running) {
    if (users.size() == users_max) break;
    const std::string process_dir = paths.proc_dir + "/" + pid;
    if (!has_open(process_dir, devices, looked_at)) continue;
    const auto command = read_file(process_dir + "/comm", small_file_bytes_max);
    users.push_back("process " + pid +
                    (command ? " (" + std::string(trim(*command)) + ")" : std::string()));
  }
  if (!users.empty()) return DiskUsers{true, join(users, ", ")};
  if (claimed) return DiskUsers{true, "claimed exclusively"};
  if (looked_at > open_files_max)
    return Error{E2BIG, "find_disk_users", path,
                 "more than " + std::to_string(open_files_max) +
                     " open files on this machine, so whether it is in use is not known"};
  return DiskUsers{};
}

}  // namespace ublk_operator

#include "node/agent/pool_file.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/base/strings.h"

namespace ublk_operator::pool_file {

namespace {

// Not in Debian 12's headers: FS_IOC_GETFSUUID (linux/fs.h, since 6.9) and XFS_SUPER_MAGIC
// (linux/magic.h, later).
struct FsUuid {
  uint8_t length;
  uint8_t bytes[16];
};
constexpr unsigned long fs_ioc_getfsuuid = _IOR(0x15, 0, FsUuid);
constexpr unsigned long xfs_magic = 0x58465342;

int open_beneath(int directory, const char* path, int flags) {
  struct open_how how{};
  how.flags = static_cast<decltype(how.flags)>(flags | O_CLOEXEC);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  // EAGAIN: something was renamed or mounted meanwhile, so that the kernel could not prove that the
  // path stayed beneath.
  for (int attempt = 0;; ++attempt) {
    const long fd = ::syscall(SYS_openat2, directory, path, &how, sizeof how);
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR) || attempt == 16)
      return static_cast<int>(fd);
  }
}

Result<UniqueFd> open_pool(const Place& place) {
  UniqueFd fd(::open(place.pool_directory.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (fd.valid()) return fd;
  return errno_error("open_pool", place.pool_directory,
                     errno == ENOENT
                         ? "the folder of pool '" + place.pool + "' is not there: make or mount it"
                         : "the folder of pool '" + place.pool + "' cannot be opened");
}

uint64_t mix(uint64_t hash, const void* data, size_t bytes) {  // FNV-1a
  const auto* at = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ at[i]) * 0x100000001b3;
  return hash;
}

// f_fsid stays the same over reboots and renamed disks on ext4, btrfs and most others. XFS puts the
// disk's number there, so its UUID is asked for; what has neither (NFS) is known by st_dev, which
// holds for one mount only.
Result<uint64_t> file_system_id(int fd, const struct stat& info, const std::string& path) {
  struct statfs fs{};
  if (::fstatfs(fd, &fs) < 0) return errno_error("statfs", path);
  if (static_cast<unsigned long>(fs.f_type) == xfs_magic) {
    FsUuid uuid{};
    if (::ioctl(fd, fs_ioc_getfsuuid, &uuid) == 0)
      return mix(0xcbf29ce484222325, uuid.bytes, sizeof uuid.bytes);
  }
  uint64_t id = 0;
  static_assert(sizeof fs.f_fsid == sizeof id);
  std::memcpy(&id, &fs.f_fsid, sizeof id);
  return id != 0 ? id : static_cast<uint64_t>(info.st_dev);
}

}  // namespace

std::string Place::beneath() const { return join(parts, "/"); }

std::string Place::directory() const {
  std::string text = pool_directory;
  for (size_t i = 0; i + 1 < parts.size(); ++i) text += "/" + parts[i];
  return text;
}

Error explain(const char* operation, const Place& place) {
  const int err = errno;
  std::string detail;
  switch (err) {
    case EXDEV:
      detail = "the path leaves its pool '" + place.pool + "'";
      break;
    case ELOOP:
      detail =
          "the path holds a symbolic link, which is not followed beneath a pool: give the "
          "path of the file itself";
      break;
    case ENOTDIR:
      detail = "a part of the path is not a folder";
      break;
    case EACCES:
    case EPERM:
      detail = "the node agent may not open it: check owner and mode";
      break;
    case EROFS:
      detail = "the file system is mounted read-only";
      break;
    case ENOSPC:
    case EDQUOT:
      detail = "no space left in pool '" + place.pool + "': free some";
      break;
    case ENOSYS:
      detail = "openat2(2) is missing: Linux 5.6 or a newer seccomp profile is needed";
      break;
    default:
      break;
  }
  return Error{err, operation, place.path(), std::move(detail)};
}

Result<Place> locate(const Pools& pools, const FileBackendSpec& spec) {
  const auto pool = pools.find(spec.pool);
  if (pool == pools.end()) {
    std::vector<std::string> known;
    known.reserve(pools.size());
    for (const auto& [name, folder] : pools) known.push_back(name);
    return Error{
        ENOENT, "open_backend", "pool " + spec.pool,
        "this node has no such pool; it has: " +
            (known.empty() ? std::string("none") : join(known, ", ")) +
            ". Name one of them, or give the agent that one (--pool, in the chart node.pools)"};
  }
  const std::string object = pool->second.path + "/" + spec.path;
  if (spec.path.starts_with('/'))
    return Error{EXDEV, "open_backend", spec.path,
                 "spec.backend.file.path is relative to pool '" + spec.pool + "' (" +
                     pool->second.path + "): leave out what stands before it"};
  if (spec.path.find('\0') != std::string::npos)
    return Error{EINVAL, "open_backend", object, "the path holds a NUL character"};
  if (spec.path.empty() || spec.path.ends_with('/'))
    return Error{EISDIR, "open_backend", object, "spec.backend.file.path must name a file"};
  Place place{spec.pool, pool->second.path, {}};
  for (const std::string_view part : split(spec.path, '/')) {
    if (part == "..")
      return Error{EXDEV, "open_backend", object,
                   "'..' is not allowed in spec.backend.file.path: name the file from the pool's "
                   "folder downwards"};
    if (!part.empty() && part != ".") place.parts.emplace_back(part);
  }
  if (place.parts.empty())
    return Error{EISDIR, "open_backend", object, "spec.backend.file.path must name a file"};
  return place;
}

Result<OpenPlace> open_place(const Pools& pools, const FileBackendSpec& wanted) {
  auto place = locate(pools, wanted);
  if (!place) return place.error();
  auto pool = open_pool(*place);
  if (!pool) return pool.error();
  return OpenPlace{std::move(*place), std::move(*pool)};
}

Result<OpenPlace> descend(const OpenPlace& from, const char* operation) {
  const Place& place = from.place;
  std::string above = ".";
  for (size_t i = 0; i + 1 < place.parts.size(); ++i) above += "/" + place.parts[i];
  UniqueFd directory(open_beneath(from.folder.get(), above.c_str(), O_RDONLY | O_DIRECTORY));
  if (!directory.valid()) return explain(operation, place);
  return OpenPlace{{place.pool, place.directory(), {place.parts.back()}}, std::move(directory)};
}

Result<UniqueFd> reopen(int fd, const Place& place, int flags) {
  const std::string handle = "/proc/self/fd/" + std::to_string(fd);
  UniqueFd opened(::open(handle.c_str(), flags | O_CLOEXEC | O_NOCTTY));
  if (opened.valid()) return opened;
  if (errno == EINVAL && (flags & O_DIRECT) != 0)
    return Error{
        EINVAL, "open_backend", place.path(),
        "its file system cannot do direct I/O: set spec.backend.file.directIO to false, or "
        "use a pool on another file system"};
  return explain("open_backend", place);
}

// First as a mere place (O_PATH), because opening a device or a FIFO can already have an effect;
// then that very inode again, through its descriptor.
Result<File> open_file(const OpenPlace& where, int flags) {
  const auto& [place, folder] = where;
  File file;
  const UniqueFd found(open_beneath(folder.get(), place.beneath().c_str(), O_PATH));
  if (!found.valid()) return explain("open_backend", place);
  if (::fstat(found.get(), &file.info) < 0) return errno_error("stat_backend", place.path());
  if (S_ISDIR(file.info.st_mode))
    return Error{EISDIR, "open_backend", place.path(), "is a folder: name a file in it"};
  if (!S_ISREG(file.info.st_mode))
    return Error{EINVAL, "open_backend", place.path(),
                 "is not a regular file (devices, sockets and pipes cannot be a file backend)"};
  auto opened = reopen(found.get(), place, flags);
  if (!opened) return opened.error();
  file.fd = std::move(opened).value();
  return file;
}

Result<BackendIdentity> identify(const File& file, const std::string& path) {
  auto device = file_system_id(file.fd.get(), file.info, path);
  if (!device) return device.error();
  BackendIdentity identity{*device, file.info.st_ino, 0, static_cast<uint64_t>(file.info.st_size)};
  // Inode numbers are reused at once by some file systems (ext4): the birth time tells two apart.
  struct statx more{};
  if (::statx(file.fd.get(), "", AT_EMPTY_PATH, STATX_BTIME, &more) == 0 &&
      (more.stx_mask & STATX_BTIME) != 0)
    identity.birth_ns =
        static_cast<uint64_t>(more.stx_btime.tv_sec) * 1'000'000'000 + more.stx_btime.tv_nsec;
  return identity;
}

bool same_file(const BackendIdentity& a, const BackendIdentity& b) {
  return a.device == b.device && a.inode == b.inode &&
         (a.birth_ns == b.birth_ns || a.birth_ns == 0 || b.birth_ns == 0);
}

Result<void> compare(const BackendIdentity& known, const BackendIdentity& found,
                     const std::string& path) {
  if (!same_file(known, found))
    return Error{ESTALE, "check_backend", path,
                 "another file lies there than the one this volume had: put the old one back, or "
                 "remove the volume and make it anew to take this one"};
  if (found.size_bytes < known.size_bytes)
    return Error{
        ESTALE, "check_backend", path,
        "the file was cut from " + std::to_string(known.size_bytes) + " to " +
            std::to_string(found.size_bytes) +
            " bytes: restore it, or remove the volume and make it anew to take it as it is"};
  return {};
}

Result<NewFile> create_file(const OpenPlace& where) {
  const auto& [place, folder] = where;
  UniqueFd directory(open_beneath(folder.get(), ".", O_RDONLY | O_DIRECTORY));
  if (!directory.valid()) return explain("open_pool", place);
  for (size_t i = 0; i + 1 < place.parts.size(); ++i) {
    const char* name = place.parts[i].c_str();
    UniqueFd next(open_beneath(directory.get(), name, O_RDONLY | O_DIRECTORY));
    if (!next.valid() && errno == ENOENT) {
      if (::mkdirat(directory.get(), name, 0700) < 0 && errno != EEXIST)
        return explain("make_backend_folder", place);
      if (::fsync(directory.get()) < 0) return explain("make_backend_folder", place);
      next.reset(open_beneath(directory.get(), name, O_RDONLY | O_DIRECTORY));
    }
    if (!next.valid()) return explain("make_backend_folder", place);
    directory = std::move(next);
  }
  // Without O_DIRECT even where it is wanted: a file system that lacks it refuses the open only
  // after it made the file.
  File file;
  file.fd.reset(::openat(directory.get(), place.parts.back().c_str(),
                         O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.fd.valid()) return explain("make_backend", place);
  if (::fstat(file.fd.get(), &file.info) < 0) return errno_error("stat_backend", place.path());
  return NewFile{std::move(file), std::move(directory)};
}

}  // namespace ublk_operator::pool_file

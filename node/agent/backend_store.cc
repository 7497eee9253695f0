#include "node/agent/backend_store.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "common/base/strings.h"
#include "node/backends/file/direct_io.h"

namespace ublk_operator {

namespace {

// Not in Debian 12's headers: FS_IOC_GETFSUUID (linux/fs.h, since 6.9) and XFS_SUPER_MAGIC
// (linux/magic.h, later).
struct FsUuid {
  uint8_t length;
  uint8_t bytes[16];
};
constexpr unsigned long fs_ioc_getfsuuid = _IOR(0x15, 0, FsUuid);
constexpr unsigned long xfs_magic = 0x58465342;

constexpr uint32_t discard_unit_default = 4096;
constexpr uint32_t discard_unit_max = 1 << 20;

// Where a file is to lie. `parts` are plain names: no "", ".", "..".
struct Place {
  std::string pool;
  std::string pool_directory;
  std::vector<std::string> parts;

  [[nodiscard]] std::string beneath() const { return join(parts, "/"); }
  [[nodiscard]] std::string path() const { return pool_directory + "/" + beneath(); }
  [[nodiscard]] std::string directory() const {
    std::string text = pool_directory;
    for (size_t i = 0; i + 1 < parts.size(); ++i) text += "/" + parts[i];
    return text;
  }
};

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

// errno of opening something beneath a pool, as a sentence.
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

struct OpenPlace {
  Place place;
  UniqueFd pool;
};

Result<OpenPlace> open_place(const Pools& pools, const FileBackendSpec& wanted) {
  auto place = locate(pools, wanted);
  if (!place) return place.error();
  auto pool = open_pool(*place);
  if (!pool) return pool.error();
  return OpenPlace{std::move(*place), std::move(*pool)};
}

struct File {
  UniqueFd fd;
  struct stat info{};
};

// The very inode of `fd` once more, opened in another way.
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

// An existing regular file. First as a mere place (O_PATH), because opening a device or a FIFO can
// already have an effect; then that very inode again, through its descriptor.
Result<File> open_file(int pool, const Place& place, int flags) {
  File file;
  const UniqueFd found(open_beneath(pool, place.beneath().c_str(), O_PATH));
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

// Is the file the one the volume had, and whole?
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

// Makes the folders above the file and the empty file itself. EEXIST: somebody made it meanwhile.
// Returns the folder it lies in.
Result<UniqueFd> create_file(int pool, const Place& place, File& file) {
  UniqueFd directory(open_beneath(pool, ".", O_RDONLY | O_DIRECTORY));
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
  file.fd.reset(::openat(directory.get(), place.parts.back().c_str(),
                         O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.fd.valid()) return explain("make_backend", place);
  if (::fstat(file.fd.get(), &file.info) < 0) return errno_error("stat_backend", place.path());
  return directory;
}

std::string no_space(const Place& place, uint64_t more) {
  return "pool '" + place.pool + "' has no space for " + std::to_string(more) +
         " bytes more: free some, or set spec.backend.file.provisioning to Thin";
}

std::string too_big(uint64_t bytes) {
  return "its file system cannot hold a file of " + std::to_string(bytes) +
         " bytes: lower spec.size, or use another pool";
}

// Asked before it is tried: an allocation fails only when it has filled the file system, and until it is undone nobody else
// there can write; a kubelet begins to evict. A file system without blocks (ramfs) does not say.
Result<void> check_space(const struct statvfs& space, uint64_t more, const Place& place) {
  if (space.f_blocks == 0 || uint64_t{space.f_bavail} * space.f_frsize >= more) return {};
  return Error{ENOSPC, "allocate_backend", place.path(), no_space(place, more)};
}

Result<void> grow(int fd, uint64_t from, uint64_t to, Provisioning provisioning,
                  const Place& place) {
  if (provisioning == Provisioning::thick) {
    struct statvfs space{};
    if (::fstatvfs(fd, &space) < 0) return errno_error("statvfs", place.path());
    if (auto room = check_space(space, to - from, place); !room) return room;
  }
  int done = -1;
  do {
    done = provisioning == Provisioning::thick
               ? ::fallocate(fd, 0, static_cast<off_t>(from), static_cast<off_t>(to - from))
               : ::ftruncate(fd, static_cast<off_t>(to));
  } while (done < 0 && errno == EINTR);
  if (done < 0) {
    std::string detail;
    if (errno == EOPNOTSUPP)
      detail =
          "its file system cannot allocate space ahead: set spec.backend.file.provisioning to "
          "Thin, or use another pool";
    else if (errno == ENOSPC || errno == EDQUOT)
      detail = no_space(place, to - from);
    else if (errno == EFBIG)
      detail = too_big(to);
    return errno_error("allocate_backend", place.path(), detail);
  }
  if (::fsync(fd) < 0) return errno_error("fsync", place.path());
  return {};
}

Result<void> check_size(uint64_t have, const VolumeSpec& spec, const Place& place) {
  const std::string sizes = "the file has " + std::to_string(have) + " bytes, spec.size is " +
                            std::to_string(spec.size_bytes);
  if (have > spec.size_bytes)
    return Error{EFBIG, "open_backend", place.path(),
                 sizes +
                     ", and what lies behind would be cut off: raise spec.size to at least the "
                     "file's, or use another file"};
  if (have < spec.size_bytes && spec.read_only)
    return Error{EINVAL, "open_backend", place.path(),
                 sizes +
                     ", and the file of a read-only volume is never grown: set spec.size to the "
                     "file's"};
  return {};
}

// Can holes be punched here? Asked behind the end of the file, where no data is; the file systems
// that lack it refuse before they look at the place.
uint32_t discard_granularity(const File& file, const std::string& directory, uint64_t size_bytes) {
  const auto end =
      static_cast<off_t>((size_bytes + discard_unit_max - 1) / discard_unit_max * discard_unit_max);
  // Tried on a nameless file beside it: on the file itself it would wait for direct I/O of a dead server that is still under
  // way. File systems without O_TMPFILE are asked with the file after all.
  const UniqueFd beside(::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (::fallocate(beside.valid() ? beside.get() : file.fd.get(),
                  FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, discard_unit_default) < 0)
    return 0;
  const auto unit = static_cast<uint64_t>(file.info.st_blksize);
  return std::has_single_bit(unit) && unit >= 512 && unit <= discard_unit_max
             ? static_cast<uint32_t>(unit)
             : discard_unit_default;
}

// What a claimed file needs to become the volume's backend.
Result<OpenBackend> prepare(const VolumeSpec& spec, const FileBackendSpec& wanted,
                            const Place& place, File& file, bool made,
                            const std::optional<BackendIdentity>& known) {
  // Its size may have changed before it was claimed.
  if (::fstat(file.fd.get(), &file.info) < 0) return errno_error("stat_backend", place.path());
  auto identity = identify(file, place.path());
  if (!identity) return identity.error();
  if (known)
    if (auto same = compare(*known, *identity, place.path()); !same) return same.error();
  if (auto fits = check_size(identity->size_bytes, spec, place); !fits) return fits.error();
  if (identity->size_bytes < spec.size_bytes) {
    auto grown =
        grow(file.fd.get(), identity->size_bytes, spec.size_bytes, wanted.provisioning, place);
    if (!grown) return grown.error();
  }
  identity->size_bytes = spec.size_bytes;
  if (made && wanted.direct_io) {
    auto direct = reopen(file.fd.get(), place, O_RDWR | O_DIRECT);
    if (!direct) return direct.error();
    file.fd = std::move(direct).value();
  }
  if (wanted.direct_io) {
    auto aligned = check_direct_alignment(file.fd.get(), spec.logical_block_bytes, place.path());
    if (!aligned) return aligned.error();
  }

  OpenBackend backend;
  backend.config = {{"kind", "file"},
                    {"path", place.path()},
                    {"direct", wanted.direct_io},
                    {"size_bytes", spec.size_bytes},
                    {"read_only", spec.read_only}};
  backend.identity = *identity;
  backend.size_bytes = spec.size_bytes;
  // What Thick has reserved is not given back by a mkfs or fstrim in the volume.
  backend.discard_granularity_bytes =
      spec.read_only || wanted.provisioning == Provisioning::thick
          ? 0
          : discard_granularity(file, place.directory(), spec.size_bytes);
  backend.watch_directory = place.directory();
  backend.watch_name = place.parts.back();
  backend.fds.push_back(std::move(file.fd));
  return backend;
}

OpenBackend open_null(const VolumeSpec& spec) {
  OpenBackend backend;
  backend.config = {{"kind", "null"}};
  backend.size_bytes = spec.size_bytes;
  backend.discard_granularity_bytes = discard_unit_default;
  backend.durable = false;
  return backend;
}

}  // namespace

Result<OpenBackend> OpenBackend::duplicate() const {
  OpenBackend copy;
  copy.config = config;
  copy.identity = identity;
  copy.size_bytes = size_bytes;
  copy.discard_granularity_bytes = discard_granularity_bytes;
  copy.durable = durable;
  copy.watch_directory = watch_directory;
  copy.watch_name = watch_name;
  for (const UniqueFd& fd : fds) {
    auto other = fd.duplicate();
    if (!other) return other.error();
    copy.fds.push_back(std::move(other).value());
  }
  return copy;
}

BackendStore::BackendStore(Pools pools, std::string mounts)
    : pools_(std::move(pools)), mounts_(std::move(mounts)) {}

Result<void> BackendStore::require_mounted(const std::string& name, const UniqueFd& folder) const {
  auto mounted = check_mounted(pools_.at(name), folder.get(), mounts_);
  if (mounted) return {};
  Error error = std::move(mounted).error();
  error.object = "pool " + name + " (" + error.object + ")";
  return error;
}

void BackendStore::reserve(const std::string& volume, const BackendIdentity& identity) {
  const std::lock_guard lock(mutex_);
  reserved_[volume] = identity;
}

Result<bool> BackendStore::claim(const std::string& volume, const FileKey& key,
                                 const BackendIdentity& identity, const std::string& path) {
  const auto taken = [&path](const std::string& owner) {
    return Error{EBUSY, "claim_backend", path,
                 "the file belongs to volume '" + owner + "': give each volume a file of its own"};
  };
  const std::lock_guard lock(mutex_);
  for (const auto& [owner, reserved] : reserved_)
    if (owner != volume && same_file(reserved, identity)) return taken(owner);
  const auto [owner, added] = owners_.try_emplace(key, volume);
  if (added || owner->second == volume) return added;
  return taken(owner->second);
}

void BackendStore::unclaim(const FileKey& key) {
  const std::lock_guard lock(mutex_);
  owners_.erase(key);
}

Result<OpenBackend> BackendStore::open(const std::string& volume, const VolumeSpec& spec,
                                       const std::optional<BackendIdentity>& known) {
  auto opened = open_file_backend(volume, spec, known, false);
  if (known && (opened.err() == ENOENT || opened.err() == ESTALE))
    if (auto mounted = pool_mounted(spec); !mounted) return mounted.error();
  return opened;
}

// Why what was known is not there, where that is the reason.
Result<void> BackendStore::pool_mounted(const VolumeSpec& spec) const {
  const auto* wanted = std::get_if<FileBackendSpec>(&spec.backend);
  if (wanted == nullptr) return {};
  auto found_place = open_place(pools_, *wanted);
  if (!found_place) return found_place.error();
  const auto& [place, pool] = *found_place;
  return require_mounted(place.pool, pool);
}

Result<OpenBackend> BackendStore::open_existing(const std::string& volume, const VolumeSpec& spec) {
  return open_file_backend(volume, spec, std::nullopt, true);
}

Result<OpenBackend> BackendStore::open_file_backend(const std::string& volume,
                                                    const VolumeSpec& spec,
                                                    const std::optional<BackendIdentity>& known,
                                                    bool must_exist) {
  const auto* wanted = std::get_if<FileBackendSpec>(&spec.backend);
  if (wanted == nullptr) return open_null(spec);
  auto found_place = open_place(pools_, *wanted);
  if (!found_place) return found_place.error();
  const auto& [place, pool] = *found_place;
  // What a volume had is known again whatever lies there; without that knowledge anything would do.
  if (!known)
    if (auto mounted = require_mounted(place.pool, pool); !mounted) return mounted.error();

  const int flags = (spec.read_only ? O_RDONLY : O_RDWR) | (wanted->direct_io ? O_DIRECT : 0);
  File file;
  UniqueFd made_in;  // the folder of a file that this call made
  for (int attempt = 0; !file.fd.valid(); ++attempt) {
    auto opened = open_file(pool.get(), place, flags);
    if (opened) {
      file = std::move(opened).value();
      break;
    }
    // Three times: another volume's open may make it, and a failure of that remove it again.
    if (opened.err() != ENOENT || attempt == 3) return opened.error();
    if (known || must_exist || spec.read_only)
      return Error{ENOENT, "open_backend", place.path(),
                   known || must_exist
                       ? "the volume's file is gone: put it back, or remove the volume and make "
                         "it anew to start with an empty one"
                       : "a read-only volume needs a file that is already there"};
    auto directory = create_file(pool.get(), place, file);
    if (directory)
      made_in = std::move(directory).value();
    else if (directory.err() != EEXIST)
      return directory.error();
  }

  auto found = identify(file, place.path());
  if (!found) {
    if (made_in.valid()) ::unlinkat(made_in.get(), place.parts.back().c_str(), 0);
    return found.error();
  }
  if (must_exist && found->size_bytes < spec.size_bytes)
    return Error{ESTALE, "open_backend", place.path(),
                 "the file holds " + std::to_string(found->size_bytes) +
                     " bytes, fewer than the device that is in use: it is not the one this volume "
                     "had; put that one back"};
  const FileKey key{file.info.st_dev, file.info.st_ino};
  auto claimed = claim(volume, key, *found, place.path());
  {
    const std::scoped_lock lock(mutex_);
    if (!claimed)
      refused_[key] = volume;
    else if (const auto mine = refused_.find(key); mine != refused_.end() && mine->second == volume)
      refused_.erase(mine);
  }
  if (!claimed) return claimed.error();  // whoever holds it keeps it, even if this call made it
  auto backend = prepare(spec, *wanted, place, file, made_in.valid(), known);
  if (backend) {
    if (made_in.valid() && ::fsync(made_in.get()) < 0) backend = explain("fsync", place);
  }
  if (!backend) {
    // Only while it is claimed nobody else can have begun to use it.
    if (made_in.valid()) ::unlinkat(made_in.get(), place.parts.back().c_str(), 0);
    if (*claimed) unclaim(key);
  }
  return backend;
}

Result<void> BackendStore::check_growth(const VolumeSpec& spec, const BackendIdentity& known) {
  const auto* wanted = std::get_if<FileBackendSpec>(&spec.backend);
  if (wanted == nullptr || spec.size_bytes <= known.size_bytes) return {};
  auto place = locate(pools_, *wanted);
  if (!place) return place.error();
  const uint64_t more = spec.size_bytes - known.size_bytes;
  struct statvfs space{};
  if (::statvfs(place->directory().c_str(), &space) < 0)
    return errno_error("statvfs", place->directory());
  if (wanted->provisioning == Provisioning::thick)
    if (auto room = check_space(space, more, *place); !room) return room;
  // What the file system can hold at all is tried on a nameless file.
  const UniqueFd beside(::open(place->directory().c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (beside.valid() && ::ftruncate(beside.get(), static_cast<off_t>(spec.size_bytes)) < 0 &&
      errno == EFBIG)
    return Error{EFBIG, "allocate_backend", place->path(), too_big(spec.size_bytes)};
  return {};
}

void BackendStore::release(const std::string& volume) {
  const std::lock_guard lock(mutex_);
  reserved_.erase(volume);
  std::erase_if(owners_, [&](const auto& entry) { return entry.second == volume; });
  std::erase_if(refused_, [&](const auto& entry) { return entry.second == volume; });
}

Result<void> BackendStore::check(const VolumeSpec& spec, const BackendIdentity& known) {
  const auto* wanted = std::get_if<FileBackendSpec>(&spec.backend);
  if (wanted == nullptr) return {};
  auto found_place = open_place(pools_, *wanted);
  if (!found_place) return found_place.error();
  const auto& [place, pool] = *found_place;
  auto file = open_file(pool.get(), place, O_RDONLY);
  if (!file) {
    Error error = file.error();
    if (error.err == ENOENT) error.detail = "the volume's file was removed or renamed: put it back";
    return error;
  }
  auto found = identify(*file, place.path());
  if (!found) return found.error();
  return compare(known, *found, place.path());
}

Result<void> BackendStore::remove(const std::string& volume, const VolumeSpec& spec,
                                  const BackendIdentity& known) {
  const auto* wanted = std::get_if<FileBackendSpec>(&spec.backend);
  if (wanted == nullptr) return {};
  auto found_place = open_place(pools_, *wanted);
  if (!found_place) return found_place.error();
  const auto& [place, pool] = *found_place;
  // Or a file that is only not to be seen would be taken for removed.
  if (auto mounted = require_mounted(place.pool, pool); !mounted) return mounted;
  // The folder is held open, so that the file looked at and the one removed lie in the same.
  std::string above = ".";
  for (size_t i = 0; i + 1 < place.parts.size(); ++i) above += "/" + place.parts[i];
  const UniqueFd directory(open_beneath(pool.get(), above.c_str(), O_RDONLY | O_DIRECTORY));
  if (!directory.valid()) {
    if (errno == ENOENT) return {};
    return explain("remove_backend", place);
  }
  Place in_directory = place;
  in_directory.pool_directory = place.directory();
  in_directory.parts = {place.parts.back()};
  auto file = open_file(directory.get(), in_directory, O_RDONLY);
  if (!file) return file.err() == ENOENT ? Result<void>{} : file.error();
  auto found = identify(*file, place.path());
  if (!found) return found.error();
  if (!same_file(known, *found))
    return Error{EEXIST, "remove_backend", place.path(),
                 "another file lies there than the one this volume had, so it was not removed"};
  const FileKey key{file->info.st_dev, file->info.st_ino};
  auto claimed = claim(volume, key, *found, place.path());
  if (!claimed) return claimed.error();
  {
    // A volume that was renamed in its manifest is a removal and a new volume with the same file.
    const std::scoped_lock lock(mutex_);
    if (const auto other = refused_.find(key); other != refused_.end())
      return Error{EBUSY, "remove_backend", place.path(),
                   "volume " + other->second + " asks for this file, so it is kept"};
  }
  const int removed = ::unlinkat(directory.get(), place.parts.back().c_str(), 0);
  const int failure = removed < 0 && errno != ENOENT ? errno : 0;
  if (*claimed) unclaim(key);
  if (failure != 0) {
    errno = failure;
    return explain("remove_backend", place);
  }
  if (::fsync(directory.get()) < 0) return errno_error("fsync", place.directory());
  return {};
}

}  // namespace ublk_operator

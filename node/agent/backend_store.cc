#include "node/agent/backend_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <utility>

#include "node/agent/pool_file.h"
#include "node/backends/file/direct_io.h"

namespace ublk_operator {

using pool_file::compare;
using pool_file::explain;
using pool_file::File;
using pool_file::identify;
using pool_file::open_file;
using pool_file::open_place;
using pool_file::Place;
using pool_file::same_file;

namespace {

constexpr uint32_t discard_unit_default = 4096;
constexpr uint32_t discard_unit_max = 1 << 20;

std::string no_space(const Place& place, uint64_t more) {
  return "pool '" + place.pool + "' has no space for " + std::to_string(more) +
         " bytes more: free some, or set spec.backend.file.provisioning to Thin";
}

std::string too_big(uint64_t bytes) {
  return "its file system cannot hold a file of " + std::to_string(bytes) +
         " bytes: lower spec.size, or use another pool";
}

// Asked before it is tried: an allocation fails only when it has filled the file system, and until
// it is undone nobody else there can write; a kubelet begins to evict. A file system without blocks
// (ramfs) does not say.
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
  // Tried on a nameless file beside it: on the file itself it would wait for direct I/O of a dead
  // server that is still under way. File systems without O_TMPFILE are asked with the file after
  // all.
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
    auto direct = pool_file::reopen(file.fd.get(), place, O_RDWR | O_DIRECT);
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
  return require_mounted(found_place->place.pool, found_place->folder);
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
  const Place& place = found_place->place;
  // What a volume had is known again whatever lies there; without that knowledge anything would do.
  if (!known)
    if (auto mounted = require_mounted(place.pool, found_place->folder); !mounted)
      return mounted.error();

  const int flags = (spec.read_only ? O_RDONLY : O_RDWR) | (wanted->direct_io ? O_DIRECT : 0);
  File file;
  UniqueFd made_in;  // the folder of a file that this call made
  for (int attempt = 0; !file.fd.valid(); ++attempt) {
    auto opened = open_file(*found_place, flags);
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
    auto made = pool_file::create_file(*found_place);
    if (made) {
      file = std::move(made->file);
      made_in = std::move(made->folder);
    } else if (made.err() != EEXIST) {
      return made.error();
    }
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
  auto place = pool_file::locate(pools_, *wanted);
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
  auto file = open_file(*found_place, O_RDONLY);
  if (!file) {
    Error error = file.error();
    if (error.err == ENOENT) error.detail = "the volume's file was removed or renamed: put it back";
    return error;
  }
  const std::string path = found_place->place.path();
  auto found = identify(*file, path);
  if (!found) return found.error();
  return compare(known, *found, path);
}

Result<void> BackendStore::remove(const std::string& volume, const VolumeSpec& spec,
                                  const BackendIdentity& known) {
  const auto* wanted = std::get_if<FileBackendSpec>(&spec.backend);
  if (wanted == nullptr) return {};
  auto found_place = open_place(pools_, *wanted);
  if (!found_place) return found_place.error();
  const Place& place = found_place->place;
  // Or a file that is only not to be seen would be taken for removed.
  if (auto mounted = require_mounted(place.pool, found_place->folder); !mounted) return mounted;
  auto lies_in = pool_file::descend(*found_place, "remove_backend");
  if (!lies_in) return lies_in.err() == ENOENT ? Result<void>{} : lies_in.error();
  auto file = open_file(*lies_in, O_RDONLY);
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
  const int removed = ::unlinkat(lies_in->folder.get(), place.parts.back().c_str(), 0);
  const int failure = removed < 0 && errno != ENOENT ? errno : 0;
  if (*claimed) unclaim(key);
  if (failure != 0) {
    errno = failure;
    return explain("remove_backend", place);
  }
  if (::fsync(lies_in->folder.get()) < 0) return errno_error("fsync", place.directory());
  return {};
}

}  // namespace ublk_operator

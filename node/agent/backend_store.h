// BackendStore: the backends of this node's volumes, as far as they must be opened, made or removed
// with privilege: which file is whose, and of the size that its spec asks for. How a file is found
// beneath its pool and known again: pool_file.h.
// Errors   ENOENT: unknown pool (detail lists the known ones) or the file vanished; EXDEV, ELOOP:
//          the path leaves the pool or holds a symlink; EACCES; ENOSPC; EISDIR/EINVAL: not a
//          regular file, or the file system lacks direct I/O; EOPNOTSUPP: it cannot allocate
//          (Thick); EFBIG: the file is larger than the size asked for (data would be cut off);
//          ESTALE: another file lies there now than the one this volume had, or it was cut; EBUSY:
//          the file belongs to another volume of this node; ENOMEDIUM: the pool must be a mount
//          point and is none, so no file is made or removed there. Each detail says what to do.
// Threads  any; a slow open (mkdir, fallocate, fsync) of one volume holds up no other.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/api/volume.h"
#include "common/base/result.h"
#include "common/base/unique_fd.h"
#include "nlohmann/json.hpp"
#include "node/agent/pool.h"
#include "node/agent/state_store.h"

namespace ublk_operator {

// What a server gets: make_backend()'s config and descriptors.
struct OpenBackend {
  nlohmann::json config;
  std::vector<UniqueFd> fds;
  std::optional<BackendIdentity> identity;  // none for kinds that keep nothing
  uint64_t size_bytes = 0;
  uint32_t discard_granularity_bytes = 0;  // 0: no discard
  bool durable = true;                     // flush and FUA mean something
  std::string watch_directory;  // folder whose changes may concern it ("" : none), for inotify
  std::string watch_name;       // the file's name in that folder
  [[nodiscard]] Result<OpenBackend> duplicate() const;
};

class BackendStore {
 public:
  // `pools`: name to absolute folder. A folder need not exist yet; it is looked up at each open.
  // `mounts`: see node/agent/pool.h.
  explicit BackendStore(Pools pools, std::string mounts = machine_mounts);

  // Opens the volume's backend, making it when it is not there and `known` is empty (a new volume):
  // sub-folders, file, size (Thin: sparse; Thick: allocated). An existing file with data is taken
  // as it is; one that is smaller is grown. With `known`: nothing is ever made, the file must be
  // that very one (ESTALE otherwise, ENOENT when it is gone) and hold at least known->size_bytes
  // (ESTALE: it was cut, and zeros must not take the place of data); from there it is grown when
  // spec.size was raised. A read-only volume's file is neither made nor grown. The file then
  // belongs to `volume` until release(); the identity returned is the `known` of the next open.
  [[nodiscard]] Result<OpenBackend> open(const std::string& volume, const VolumeSpec& spec,
                                         const std::optional<BackendIdentity>& known);
  // For a disk in use whose backend's identity is not known any more: nothing is made or grown, and
  // a file smaller than spec.size is another (ESTALE).
  [[nodiscard]] Result<OpenBackend> open_existing(const std::string& volume,
                                                  const VolumeSpec& spec);
  // This file belongs to `volume` until release(), whoever asks for it first.
  void reserve(const std::string& volume, const BackendIdentity& identity);
  void release(const std::string& volume);

  // Could the volume's file be grown to spec.size? Nothing is changed. ENOSPC, EFBIG.
  [[nodiscard]] Result<void> check_growth(const VolumeSpec& spec, const BackendIdentity& known);

  // reclaimPolicy Delete: removes the file if it still is `known`; a file that is gone is fine.
  // EEXIST: another one lies there now; EBUSY: another volume's or asked for by one. Both stay.
  [[nodiscard]] Result<void> remove(const std::string& volume, const VolumeSpec& spec,
                                    const BackendIdentity& known);

  // Is the file still in its place? (removed or replaced under a live volume: ENOENT, ESTALE)
  [[nodiscard]] Result<void> check(const VolumeSpec& spec, const BackendIdentity& known);

 private:
  using FileKey = std::pair<uint64_t, uint64_t>;  // st_dev, st_ino: unique while this node is up
  // True: it was nobody's before. EBUSY: another volume's.
  [[nodiscard]] Result<bool> claim(const std::string& volume, const FileKey& key,
                                   const BackendIdentity& identity, const std::string& path);
  [[nodiscard]] Result<OpenBackend> open_file_backend(const std::string& volume,
                                                      const VolumeSpec& spec,
                                                      const std::optional<BackendIdentity>& known,
                                                      bool must_exist);
  void unclaim(const FileKey& key);
  [[nodiscard]] Result<void> pool_mounted(const VolumeSpec& spec) const;
  [[nodiscard]] Result<void> require_mounted(const std::string& name, const UniqueFd& folder) const;

  const Pools pools_;
  const std::string mounts_;
  std::mutex mutex_;  // guards owners_ alone: no system call is made under it
  std::map<FileKey, std::string> owners_;
  std::map<std::string, BackendIdentity> reserved_;  // by volume
  // Who was refused a file that another volume has: a file that somebody wants is not removed.
  std::map<FileKey, std::string> refused_;
};

}  // namespace ublk_operator

// A volume's file beneath its pool: where it lies, how it is opened, made and known again. It is
// opened beneath the pool's folder and never checked first (openat2 RESOLVE_BENEATH |
// RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS): who may write in a pool, and not outside of it,
// leads the agent to no other file.
// Errors   ENOENT: unknown pool (the detail lists the known ones), or nothing lies there; EXDEV,
//          ELOOP: the path leaves the pool or holds a symlink; EISDIR, EINVAL: not a regular file,
//          or no direct I/O there; EACCES, EROFS, ENOSPC. Each detail says what to do.
// Threads  any; all of it may wait for the disk.
#pragma once
#include <sys/stat.h>

#include <optional>
#include <string>
#include <vector>

#include "common/api/volume.h"
#include "common/base/result.h"
#include "common/base/unique_fd.h"
#include "node/agent/pool.h"
#include "node/agent/state_store.h"

namespace ublk_operator::pool_file {

// Where a file is to lie. `parts` are plain names: no "", ".", "..".
struct Place {
  std::string pool;
  std::string pool_directory;
  std::vector<std::string> parts;

  [[nodiscard]] std::string beneath() const;
  [[nodiscard]] std::string path() const { return pool_directory + "/" + beneath(); }
  [[nodiscard]] std::string directory() const;
};
[[nodiscard]] Result<Place> locate(const Pools& pools, const FileBackendSpec& spec);

struct OpenPlace {
  Place place;
  UniqueFd folder;  // pool_directory (O_PATH)
};
[[nodiscard]] Result<OpenPlace> open_place(const Pools& pools, const FileBackendSpec& spec);
// The same file, seen from the folder that it lies in. That is held open: what is looked at and
// what is removed there lie in one folder, whatever is renamed above it.
[[nodiscard]] Result<OpenPlace> descend(const OpenPlace& from, const char* operation);

struct File {
  UniqueFd fd;
  struct stat info{};
};
// An existing regular file.
[[nodiscard]] Result<File> open_file(const OpenPlace& where, int flags);
// The very inode of `fd` once more, opened in another way.
[[nodiscard]] Result<UniqueFd> reopen(int fd, const Place& place, int flags);

struct NewFile {
  File file;        // empty, O_RDWR, without O_DIRECT
  UniqueFd folder;  // it lies in; not yet fsynced
};
// Makes the folders above the file and the file itself. EEXIST: somebody made it meanwhile.
[[nodiscard]] Result<NewFile> create_file(const OpenPlace& where);

[[nodiscard]] Result<BackendIdentity> identify(const File& file, const std::string& path);
[[nodiscard]] bool same_file(const BackendIdentity& a, const BackendIdentity& b);
// Is the file the one the volume had, and whole? ESTALE.
[[nodiscard]] Result<void> compare(const BackendIdentity& known, const BackendIdentity& found,
                                   const std::string& path);

// errno of doing something beneath a pool, as a sentence.
[[nodiscard]] Error explain(const char* operation, const Place& place);

}  // namespace ublk_operator::pool_file

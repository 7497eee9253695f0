// What we meant, on disk: two small versioned files a volume.
//   <state>/volumes/NAME.json   durable: the last accepted manifest and where it came from, the
//                               backend's identity, what people asked for (stopped, paused),
//                               counters. Not written during a recovery.
//   <run>/leases/NAME.json      ends with the boot, as devices do (tmpfs): the device's id and
//                               shape, the lease's generation, step and holder. Every step is
//                               written before it is done; no disk is waited for.
// Both are safe to lose: the kernel says what exists, the manifests what is wanted. A file whose
// content cannot be understood is moved aside to NAME.json.broken and reported, never guessed at.
// Errors   the errno of the file system, with the path; EINVAL for a name that is no file name.
// Threads  one StateStore may be used from many threads as long as each volume's files are used by
//          one at a time.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/api/volume.h"
#include "common/base/file_lock.h"
#include "common/base/result.h"
#include "node/ublk/device.h"

namespace ublk_operator {

// A file's identity: what a recovery must find again. The three first say which file it is, also
// after a reboot and when the file system reuses an inode number; the size says whether it was cut.
struct BackendIdentity {
  uint64_t device = 0;  // of the file system: f_fsid or its UUID; st_dev where it has neither
  uint64_t inode = 0;
  uint64_t birth_ns = 0;    // when the file was made; 0: the file system does not say
  uint64_t size_bytes = 0;  // of the volume when it last had this file; 0: not known
  friend bool operator==(const BackendIdentity&, const BackendIdentity&) = default;
};

// Where a manifest came from; a removal counts only when this very folder says so.
struct SourceIdentity {
  std::string file;                // path of the manifest
  std::string directory_identity;  // "<f_fsid>:<inode>:<birth>" of its folder
  friend bool operator==(const SourceIdentity&, const SourceIdentity&) = default;
};

struct VolumeRecord {
  Volume volume;  // metadata and spec as last accepted; status is not stored
  SourceIdentity source;
  std::optional<BackendIdentity> backend;
  bool removing = false;  // the manifest is gone
  bool stopped = false;   // by hand
  bool paused = false;
  uint64_t recovery_count = 0;
  std::string last_recovery_reason;
  std::string last_recovery_time;
  std::optional<int64_t> last_recovery_us;
  uint64_t lease_generation = 0;  // at least the last one granted before this boot
  friend bool operator==(const VolumeRecord&, const VolumeRecord&) = default;
};

// Steps of a lease. What lets a server near the backend (granted) is written before it is done;
// what only keeps servers away (fencing, released) is found anew by asking the kernel, and may be
// missing.
enum class LeaseStep {
  none,      // no server was let near the device
  fencing,   // the holder is dead or being killed
  released,  // START_USER_RECOVERY succeeded (6.12, where it must not be repeated: written then)
  granted,   // a server may open ublkcN and reach the backend
  serving,
};
[[nodiscard]] const char* to_string(LeaseStep step);

struct Lease {
  std::optional<DeviceId> device;  // none: it went with its server, and the next is not there yet
  uint64_t generation = 0;
  LeaseStep step = LeaseStep::none;
  bool recovery_begun = false;  // START_USER_RECOVERY succeeded since the last release
  bool stale_mapping = false;   // 6.12: by a server that died before it had fetched every tag
  pid_t holder_pid = -1;
  uint64_t holder_start_ticks = 0;         // with the boot, the holder's identity
  VolumeSpec device_spec;                  // the spec the device was made from
  std::optional<BackendIdentity> backend;  // what its servers were given, should the record be lost
  // How the last server ended, from when its device went with it (mode None) until the next one is
  // served: an agent that begins then goes on with that recovery.
  std::string lost;
  friend bool operator==(const Lease&, const Lease&) = default;
};

struct BrokenRecord {
  std::string path;  // where it lies now
  Error error;
};

// The name without suffix of a volume's files: the volume's name, or for one that would make a file
// name too long, its beginning and a hash.
[[nodiscard]] std::string file_stem(const std::string& volume_name);

class StateStore {
 public:
  // Makes the folders and takes the lock (<state>/lock) that makes one agent the writer.
  // EWOULDBLOCK: another agent holds it (detail names its pid if it can be read). `wait_fd`: waits
  // for that one's end instead; ECANCELED when this becomes readable.
  [[nodiscard]] static Result<std::unique_ptr<StateStore>> open(
      const std::string& state_dir, const std::string& run_dir,
      std::optional<int> wait_fd = std::nullopt);

  // All volumes of the last life, by name, and what could not be read. Also clears away what a
  // crash in the middle of a write left behind.
  struct Loaded {
    std::vector<VolumeRecord> volumes;
    std::vector<BrokenRecord> broken;
  };
  [[nodiscard]] Result<Loaded> load();
  [[nodiscard]] Result<void> save(const VolumeRecord& record);
  [[nodiscard]] Result<void> erase(const std::string& name);  // lease and record

  // What the devices of the last life have as backends, by volume, whether or not there is a
  // record.
  [[nodiscard]] std::map<std::string, BackendIdentity> leased_backends();
  // nullopt: there is none (or it was unreadable and moved aside).
  [[nodiscard]] std::optional<Lease> load_lease(const std::string& name);
  [[nodiscard]] Result<void> save_lease(const std::string& name, const Lease& lease);
  [[nodiscard]] Result<void> erase_lease(const std::string& name);

  // The id by which this node's devices are known. What it once was it stays, wherever the agent
  // runs: a pod does not see the host's /etc/machine-id. `machine_id`: what to begin with; when
  // that is no id (32 hexadecimal digits), a random one. EINVAL: the file was damaged; a new id is
  // never made then. Only a random one has to be written.
  [[nodiscard]] Result<std::string> node_id(const std::string& machine_id);

 private:
  StateStore(std::string state_dir, std::string run_dir, FileLock lock);
  [[nodiscard]] std::string record_path(const std::string& name) const;
  [[nodiscard]] std::string lease_path(const std::string& name) const;
  std::string state_dir_;
  std::string run_dir_;
  FileLock lock_;
};

}  // namespace ublk_operator

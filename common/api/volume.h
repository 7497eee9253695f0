// UblkVolume: what a user asks for (spec) and what is (status). The same types serve manifests on
// one machine, the local API, the state folder and Kubernetes.
// Shape    plain values; every default below is the documented default of the manifest field named
//          in the comment.
// Units    names ending in _bytes are bytes; durations are std::chrono.
// Source   Kubernetes API conventions: spec/status split, standard conditions, quantities.
#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "common/api/io_latency.h"

namespace ublk_operator {

inline constexpr const char* kApiVersion = "ublk.dev/v1alpha1";
inline constexpr const char* kVolumeKind = "UblkVolume";

// What happens to I/O when the server dies (kernel patch "ublk: support device recovery without I/O
// queueing").
enum class RecoveryMode {
  none,  // "None"    in flight: EIO; new: EIO, the disk goes; then a new device under the same name
  queue,    // "Queue"   in flight: EIO; new: waits; same device
  reissue,  // "Reissue" in flight: sent again; new: waits; same device
  fail_io,  // "FailIO"  in flight: EIO; new: fails at once; same device
};

enum class OnDeadline {
  keep_waiting,  // "KeepWaiting" the application waits until the server is back, however long
  fail_device,   // "FailDevice"  the device is stopped: waiting I/O fails with EIO, the application
                 // is told
};

enum class ReclaimPolicy { retain, remove };  // "Retain", "Delete"
enum class Provisioning { thin, thick };      // "Thin", "Thick"

struct BackOff {
  std::chrono::milliseconds initial{100};     // recovery.backOff.initial
  std::chrono::milliseconds maximum{30'000};  // recovery.backOff.max
  friend bool operator==(const BackOff&, const BackOff&) = default;
};

struct RecoverySpec {
  RecoveryMode mode = RecoveryMode::reissue;          // recovery.mode
  std::optional<std::chrono::milliseconds> deadline;  // recovery.deadline; none: no deadline
  OnDeadline on_deadline = OnDeadline::keep_waiting;  // recovery.onDeadline
  uint32_t max_restarts =
      10;  // recovery.maxRestarts: failures in a row before the volume is called CrashLoop (it is
           // still tried, at backOff.max); a volume that served for a minute starts at 0 again
  BackOff back_off;  // recovery.backOff
  friend bool operator==(const RecoverySpec&, const RecoverySpec&) = default;
};

struct NullBackendSpec {
  friend bool operator==(const NullBackendSpec&, const NullBackendSpec&) = default;
};

struct FileBackendSpec {
  std::string pool = "default";  // backend.file.pool: a name that the node maps to a folder
  std::string path;              // backend.file.path: relative to the pool
  Provisioning provisioning = Provisioning::thin;
  bool direct_io = false;  // backend.file.directIO
  friend bool operator==(const FileBackendSpec&, const FileBackendSpec&) = default;
};

using BackendSpec = std::variant<NullBackendSpec, FileBackendSpec>;
[[nodiscard]] const char* backend_kind(const BackendSpec& spec);  // "null", "file"

// Faults on purpose, to rehearse what an application does while I/O is in flight. Never on by
// default.
struct FaultInjectionSpec {
  std::chrono::milliseconds latency{
      0};  // faultInjection.latency: every read and write is held this long
  friend bool operator==(const FaultInjectionSpec&, const FaultInjectionSpec&) = default;
};

struct DeviceAccess {
  uint32_t mode = 0660;        // device.mode, an octal string such as "0660"
  std::string owner = "root";  // device.owner: a name or a number
  std::string group = "disk";  // device.group
  friend bool operator==(const DeviceAccess&, const DeviceAccess&) = default;
};

struct VolumeSpec {
  // nodeName: the machine that serves the volume. Empty: in a cluster the controller chooses; on
  // one machine it is that one.
  std::string node_name;
  uint64_t size_bytes = 0;  // size, a quantity; a multiple of logicalBlockSize
  RecoverySpec recovery;
  BackendSpec backend;
  FaultInjectionSpec fault_injection;
  uint32_t queues = 1;
  uint32_t queue_depth = 64;
  uint32_t max_io_bytes = 256 << 10;   // maxIOSize, a quantity
  uint32_t logical_block_bytes = 512;  // logicalBlockSize: 512, 1024, 2048 or 4096
  bool read_only = false;
  bool running = true;
  DeviceAccess device;
  ReclaimPolicy reclaim_policy = ReclaimPolicy::retain;
  friend bool operator==(const VolumeSpec&, const VolumeSpec&) = default;
};

struct Metadata {
  std::string name;
  std::string
      uid;  // set by the API server; on one machine derived from the machine's id and the name
  int64_t generation = 1;  // grows with each change of the spec
  std::map<std::string, std::string> labels;
  std::map<std::string, std::string> annotations;
  friend bool operator==(const Metadata&, const Metadata&) = default;
};

enum class ConditionStatus { yes, no, unknown };  // "True", "False", "Unknown"

struct Condition {
  std::string type;  // "Ready", "InUse", "NeedsRecreate", "Recoverable", "BackendHealthy",
                     // "SpecValid", "Paused"
  ConditionStatus status = ConditionStatus::unknown;
  std::string reason;   // CamelCase, for programs
  std::string message;  // one sentence, for people: what, why, what to do
  int64_t observed_generation = 0;
  std::string last_transition_time;  // RFC 3339, changes only when `status` changes
  friend bool operator==(const Condition&, const Condition&) = default;
};

struct IoCounters {  // of the present server; one entry an operation: "read", "write", "flush",
                     // "discard", "write_zeroes"
  uint64_t operations = 0;
  uint64_t bytes = 0;
  uint64_t errors = 0;
  IoLatency latency = {};  // in no manifest: for metrics only
  friend bool operator==(const IoCounters&, const IoCounters&) = default;
};

struct VolumeStatus {
  int64_t observed_generation = 0;
  std::vector<Condition> conditions;
  std::optional<uint32_t> device_id;  // the N of /dev/ublkbN
  std::string device_path;            // "/dev/ublkb3"
  std::string link_path;              // "/dev/ublk/by-name/pgdata"
  std::string state;  // the kernel's word: "DEAD", "LIVE", "QUIESCED", "FAIL_IO"; empty: no device
  std::optional<int64_t> server_pid;
  uint64_t lease_generation = 0;
  uint64_t recovery_count = 0;
  std::optional<std::chrono::microseconds> last_recovery_duration;
  // Of that, since the kernel had let go of the device and the next server was let in. In no
  // manifest: for metrics only.
  std::optional<std::chrono::microseconds> last_recovery_work;
  std::string last_recovery_reason;  // "ServerKilled (signal 9)"
  std::string last_recovery_time;    // RFC 3339
  uint64_t size_bytes = 0;           // of the device as it is
  std::map<std::string, IoCounters> io;
  std::map<std::string, uint64_t> io_errors;  // by errno name, of the present server
  friend bool operator==(const VolumeStatus&, const VolumeStatus&) = default;
};

struct Volume {
  Metadata metadata;
  VolumeSpec spec;
  VolumeStatus status;
  friend bool operator==(const Volume&, const Volume&) = default;
};

// Something that happened to a volume; repeated ones are counted instead of listed again.
struct VolumeEvent {
  std::string volume;
  bool warning = false;
  std::string reason;
  std::string message;
  std::string first_time;  // RFC 3339
  std::string last_time;
  uint64_t count = 1;
  friend bool operator==(const VolumeEvent&, const VolumeEvent&) = default;
};

[[nodiscard]] const char* to_string(RecoveryMode mode);
[[nodiscard]] const char* to_string(OnDeadline action);
[[nodiscard]] const char* to_string(ReclaimPolicy policy);
[[nodiscard]] const char* to_string(Provisioning provisioning);
[[nodiscard]] const char* to_string(ConditionStatus status);

// Sets the condition of that type; last_transition_time moves to `now` only when the status
// changes. True: something other than the time changed.
bool set_condition(std::vector<Condition>& conditions, Condition condition, const std::string& now);
[[nodiscard]] const Condition* find_condition(const std::vector<Condition>& conditions,
                                              const std::string& type);

}  // namespace ublk_operator

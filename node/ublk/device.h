// The values of ublk's control plane: ids, states, flags, geometry. Plain data; the kernel's
// layouts stay in abi.h.
#pragma once
#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace ublk_operator {

using DeviceId = uint32_t;

// ublksrv_ctrl_dev_info.state (UBLK_S_DEV_*). A comment names what may follow.
enum class DeviceState : uint16_t {
  dead = 0,  // added or stopped: no disk; next: live (START_DEV), gone (DEL_DEV)
  live = 1,  // disk exists; next: quiesced or fail_io (server died, recoverable), dead (stopped, or
             // server of None died)
  quiesced = 2,  // disk exists, I/O waits; next: live (END_USER_RECOVERY), dead (STOP_DEV)
  fail_io = 3,   // disk exists, I/O fails; next: as quiesced. 7.2 only
};
[[nodiscard]] const char* to_string(
    DeviceState state);  // the kernel's words: "DEAD", "LIVE", "QUIESCED", "FAIL_IO"

// UBLK_F_* that this project uses (linux/ublk_cmd.h).
namespace flags {
inline constexpr uint64_t supports_zero_copy = 1ull << 0;
inline constexpr uint64_t complete_in_task = 1ull << 1;
inline constexpr uint64_t need_get_data = 1ull << 2;
inline constexpr uint64_t user_recovery = 1ull << 3;
inline constexpr uint64_t user_recovery_reissue = 1ull << 4;
inline constexpr uint64_t unprivileged = 1ull << 5;
inline constexpr uint64_t ioctl_encode = 1ull << 6;
inline constexpr uint64_t user_copy = 1ull << 7;
inline constexpr uint64_t zoned = 1ull << 8;
inline constexpr uint64_t user_recovery_fail_io = 1ull << 9;
inline constexpr uint64_t update_size = 1ull << 10;
inline constexpr uint64_t auto_buf_reg = 1ull << 11;
inline constexpr uint64_t quiesce = 1ull << 12;
inline constexpr uint64_t per_io_daemon = 1ull << 13;
inline constexpr uint64_t buf_reg_off_daemon = 1ull << 14;
inline constexpr uint64_t batch_io = 1ull << 15;
inline constexpr uint64_t integrity = 1ull << 16;
inline constexpr uint64_t safe_stop_dev = 1ull << 17;
inline constexpr uint64_t no_auto_part_scan = 1ull << 18;
inline constexpr uint64_t shmem_zero_copy = 1ull << 19;
}  // namespace flags

// "USER_RECOVERY|QUIESCE"; unknown bits as hex.
[[nodiscard]] std::string flags_to_string(uint64_t bits);

// What ADD_DEV and SET_PARAMS fix for the life of the device.
struct Geometry {
  uint16_t queues = 1;
  uint16_t queue_depth = 64;
  uint32_t max_io_bytes = 256 << 10;   // buffer of one tag; a multiple of the page size
  uint32_t logical_block_bytes = 512;  // power of two, 512..4096
  uint32_t physical_block_bytes = 4096;
  uint64_t size_bytes = 0;  // multiple of logical_block_bytes
  bool read_only = false;
  bool volatile_cache = true;  // without it no FLUSH reaches the server
  bool fua = true;
  uint32_t discard_granularity_bytes = 0;  // 0: no discard, no write-zeroes
  uint32_t discard_max_bytes = 0;
  uint32_t write_zeroes_max_bytes = 0;
  // What the server's buffers take: one of max_io_bytes for each tag of each queue.
  [[nodiscard]] uint64_t buffer_bytes() const {
    return uint64_t{queues} * queue_depth * max_io_bytes;
  }
  friend bool operator==(const Geometry&, const Geometry&) = default;
};

struct AddRequest {
  static constexpr DeviceId any_id = UINT32_MAX;
  DeviceId id = any_id;
  uint64_t flags = 0;     // wanted UBLK_F_*
  uint64_t identity = 0;  // ublksrv_flags: ours alone, kept by the kernel
  Geometry geometry;      // queues, queue_depth and max_io_bytes are used by ADD_DEV
};

// A snapshot (GET_DEV_INFO2, or what ADD_DEV returned).
struct DeviceInfo {
  DeviceId id = 0;
  DeviceState state = DeviceState::dead;
  uint16_t queues = 0;
  uint16_t queue_depth = 0;
  uint32_t max_io_bytes = 0;
  uint64_t flags = 0;     // as granted: unknown bits are cleared silently, so compare
  uint64_t identity = 0;  // ublksrv_flags
  pid_t server_pid = -1;  // 7.2: opener's tgid in our pid namespace, -1 when it is gone; 6.12: the
                          // raw number given
  uint32_t owner_uid = 0;
  uint32_t owner_gid = 0;
  friend bool operator==(const DeviceInfo&, const DeviceInfo&) = default;
};

[[nodiscard]] std::string object_name(DeviceId id);  // "ublk3", the object of every error
[[nodiscard]] std::string char_path(DeviceId id);    // "/dev/ublkc3"
[[nodiscard]] std::string block_path(DeviceId id);   // "/dev/ublkb3"

}  // namespace ublk_operator

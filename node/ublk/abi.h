// The ublk driver's binary interface: control commands (through /dev/ublk-control), I/O commands
// (through /dev/ublkcN) and the descriptors that the driver shares with its server.
// Shape    layouts and constants of the kernel, byte for byte; no policy. Programs outside
//          node/ublk and node/server have no business here: they use device.h and control_device.h.
// Units    a sector is 512 bytes whatever the logical block size.
// Source   the interface of Linux 7.2. Everything is additive, so it also serves 6.12; what a
//          kernel really has, GET_FEATURES says. Debian 12's own headers end at 6.1, hence this
//          file; abi_test.cc compares it with linux/ublk_cmd.h of 7.2 when UBLK_UAPI_DIR names one.
#pragma once
#include <sys/ioctl.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace ublk_operator::abi {

inline constexpr const char* kControlPath = "/dev/ublk-control";
inline constexpr const char* kCharClassPath = "/sys/class/ublk-char";  // one entry a device: ublkcN

// ---- control commands ---------------------------------------------------------------------------

// Payload of every control command: the 80 command bytes of a 128 byte SQE begin with it.
struct CtrlCmd {
  uint32_t dev_id;
  uint16_t queue_id;  // no_queue, whatever the command (GET_QUEUE_AFFINITY names its queue in data)
  uint16_t len;       // of the buffer at addr, path included
  uint64_t addr;      // in or out buffer
  uint64_t data[1];   // inline argument: pid, queue, sectors, milliseconds
  uint16_t dev_path_len;  // GET_DEV_INFO2, and every command on unprivileged devices: the buffer
                          // begins with the char device's path, NUL included
  uint16_t pad;
  uint32_t reserved;
};
static_assert(sizeof(CtrlCmd) == 32);
static_assert(offsetof(CtrlCmd, addr) == 8 && offsetof(CtrlCmd, data) == 16 &&
              offsetof(CtrlCmd, dev_path_len) == 24);
inline constexpr uint16_t no_queue = UINT16_MAX;

// Only the ioctl encoding is used: the bare numbers need a build option of the kernel.
inline constexpr uint32_t get_queue_affinity = _IOR('u', 0x01, CtrlCmd);
inline constexpr uint32_t get_dev_info = _IOR('u', 0x02, CtrlCmd);
inline constexpr uint32_t add_dev = _IOWR('u', 0x04, CtrlCmd);
inline constexpr uint32_t del_dev = _IOWR('u', 0x05, CtrlCmd);
inline constexpr uint32_t start_dev = _IOWR('u', 0x06, CtrlCmd);
inline constexpr uint32_t stop_dev = _IOWR('u', 0x07, CtrlCmd);
inline constexpr uint32_t set_params = _IOWR('u', 0x08, CtrlCmd);
inline constexpr uint32_t get_params = _IOR('u', 0x09, CtrlCmd);
inline constexpr uint32_t start_user_recovery = _IOWR('u', 0x10, CtrlCmd);
inline constexpr uint32_t end_user_recovery = _IOWR('u', 0x11, CtrlCmd);
inline constexpr uint32_t get_dev_info2 = _IOR('u', 0x12, CtrlCmd);
inline constexpr uint32_t get_features = _IOR('u', 0x13, CtrlCmd);
inline constexpr uint32_t del_dev_async = _IOR('u', 0x14, CtrlCmd);
inline constexpr uint32_t update_size = _IOWR('u', 0x15, CtrlCmd);
inline constexpr uint32_t quiesce_dev = _IOWR('u', 0x16, CtrlCmd);
inline constexpr uint32_t try_stop_dev = _IOWR('u', 0x17, CtrlCmd);
inline constexpr uint32_t reg_buf = _IOWR('u', 0x18, CtrlCmd);
inline constexpr uint32_t unreg_buf = _IOWR('u', 0x19, CtrlCmd);

inline constexpr uint16_t features_len = 8;

// ADD_DEV (in and out), GET_DEV_INFO, GET_DEV_INFO2.
struct DevInfo {
  uint16_t nr_hw_queues;
  uint16_t queue_depth;
  uint16_t state;  // DeviceState
  uint16_t pad0;
  uint32_t max_io_buf_bytes;
  uint32_t dev_id;
  int32_t ublksrv_pid;
  uint32_t pad1;
  uint64_t flags;          // UBLK_F_*, see device.h
  uint64_t ublksrv_flags;  // the kernel only keeps them: our identity
  uint32_t owner_uid;
  uint32_t owner_gid;
  uint64_t reserved1;
  uint64_t reserved2;
};
static_assert(sizeof(DevInfo) == 64);
static_assert(offsetof(DevInfo, max_io_buf_bytes) == 8 && offsetof(DevInfo, ublksrv_pid) == 16 &&
              offsetof(DevInfo, flags) == 24 && offsetof(DevInfo, owner_uid) == 40);

// ---- parameters ---------------------------------------------------------------------------------

namespace attr {
inline constexpr uint32_t read_only = 1u << 0;
inline constexpr uint32_t rotational = 1u << 1;
inline constexpr uint32_t volatile_cache = 1u << 2;
inline constexpr uint32_t fua = 1u << 3;  // counts only together with volatile_cache
}  // namespace attr

struct ParamBasic {
  uint32_t attrs;
  uint8_t logical_bs_shift;
  uint8_t physical_bs_shift;
  uint8_t io_opt_shift;
  uint8_t io_min_shift;
  uint32_t max_sectors;
  uint32_t chunk_sectors;
  uint64_t dev_sectors;
  uint64_t virt_boundary_mask;
};
static_assert(sizeof(ParamBasic) == 32);

struct ParamDiscard {
  uint32_t discard_alignment;
  uint32_t discard_granularity;  // bytes
  uint32_t max_discard_sectors;
  uint32_t max_write_zeroes_sectors;
  uint16_t max_discard_segments;  // must be 1 when max_discard_sectors is set
  uint16_t reserved0;
};
static_assert(sizeof(ParamDiscard) == 20);

struct ParamDevt {  // read only
  uint32_t char_major;
  uint32_t char_minor;
  uint32_t disk_major;
  uint32_t disk_minor;
};
static_assert(sizeof(ParamDevt) == 16);

struct ParamZoned {
  uint32_t max_open_zones;
  uint32_t max_active_zones;
  uint32_t max_zone_append_sectors;
  uint8_t reserved[20];
};
static_assert(sizeof(ParamZoned) == 32);

struct ParamDmaAlign {
  uint32_t alignment;
  uint8_t pad[4];
};
static_assert(sizeof(ParamDmaAlign) == 8);

inline constexpr uint32_t segment_bytes_min = 4096;
struct ParamSegment {
  uint64_t seg_boundary_mask;
  uint32_t max_segment_size;
  uint16_t max_segments;
  uint8_t pad[2];
};
static_assert(sizeof(ParamSegment) == 16);

struct ParamIntegrity {
  uint32_t flags;
  uint16_t max_integrity_segments;
  uint8_t interval_exp;
  uint8_t metadata_size;
  uint8_t pi_offset;
  uint8_t csum_type;
  uint8_t tag_size;
  uint8_t pad[5];
};
static_assert(sizeof(ParamIntegrity) == 16);

namespace param {
inline constexpr uint32_t basic = 1u << 0;
inline constexpr uint32_t discard = 1u << 1;
inline constexpr uint32_t devt = 1u << 2;
inline constexpr uint32_t zoned = 1u << 3;
inline constexpr uint32_t dma_align = 1u << 4;
inline constexpr uint32_t segment = 1u << 5;
inline constexpr uint32_t integrity = 1u << 6;
}  // namespace param

// SET_PARAMS, GET_PARAMS. `len` is what the caller knows; an older kernel cuts it to what it knows.
struct Params {
  uint32_t len;
  uint32_t types;  // param::*
  ParamBasic basic;
  ParamDiscard discard;
  ParamDevt devt;
  ParamZoned zoned;
  ParamDmaAlign dma;
  ParamSegment seg;
  ParamIntegrity integrity;
};
static_assert(offsetof(Params, basic) == 8 && offsetof(Params, discard) == 40 &&
              offsetof(Params, devt) == 60 && offsetof(Params, zoned) == 76 &&
              offsetof(Params, dma) == 108 && offsetof(Params, seg) == 120 &&
              offsetof(Params, integrity) == 136 && sizeof(Params) == 152);

// ---- I/O commands -------------------------------------------------------------------------------

// Payload of FETCH, COMMIT_AND_FETCH and NEED_GET_DATA on /dev/ublkcN.
struct IoCmd {
  uint16_t q_id;
  uint16_t tag;
  int32_t result;  // commit: bytes done, or a negative errno
  union {
    uint64_t addr;             // the server's buffer of this tag; 0 with USER_COPY
    uint64_t zone_append_lba;  // commit of a zone append
  };
};
static_assert(sizeof(IoCmd) == 16 && offsetof(IoCmd, result) == 4 && offsetof(IoCmd, addr) == 8);

inline constexpr uint32_t io_fetch_req = _IOWR('u', 0x20, IoCmd);
inline constexpr uint32_t io_commit_and_fetch_req = _IOWR('u', 0x21, IoCmd);
inline constexpr uint32_t io_need_get_data = _IOWR('u', 0x22, IoCmd);
inline constexpr uint32_t io_register_io_buf = _IOWR('u', 0x23, IoCmd);
inline constexpr uint32_t io_unregister_io_buf = _IOWR('u', 0x24, IoCmd);

// BATCH_IO: what the three commands below carry, and one element of the arrays they point to.
struct BatchIo {
  uint16_t q_id;
  uint16_t flags;  // batch::*
  uint16_t nr_elem;
  uint8_t elem_bytes;
  uint8_t reserved;
  uint64_t reserved2;
};
static_assert(sizeof(BatchIo) == 16);

struct BatchElement {
  uint16_t tag;
  uint16_t buf_index;
  int32_t result;
};
static_assert(sizeof(BatchElement) == 8);

namespace batch {
inline constexpr uint16_t has_zone_lba = 1u << 0;
inline constexpr uint16_t has_buf_addr = 1u << 1;
inline constexpr uint16_t auto_buf_reg_fallback = 1u << 2;
}  // namespace batch

inline constexpr uint32_t io_prep_io_cmds = _IOWR('u', 0x25, BatchIo);
inline constexpr uint32_t io_commit_io_cmds = _IOWR('u', 0x26, BatchIo);
inline constexpr uint32_t io_fetch_io_cmds = _IOWR('u', 0x27, BatchIo);

// cqe->res of a FETCH or COMMIT_AND_FETCH.
inline constexpr int32_t io_res_ok = 0;
inline constexpr int32_t io_res_need_get_data = 1;
inline constexpr int32_t io_res_abort = -ENODEV;  // the tag was handed back: do not fetch again

// One request, in the area that mmap of /dev/ublkcN shows read-only.
struct IoDesc {
  uint32_t op_flags;  // operation in bits 0-7, io_flag::* in the bits they name
  union {
    uint32_t nr_sectors;
    uint32_t nr_zones;  // report_zones
  };
  uint64_t start_sector;
  uint64_t addr;  // the buffer given at fetch
};
static_assert(sizeof(IoDesc) == 24 && offsetof(IoDesc, start_sector) == 8 &&
              offsetof(IoDesc, addr) == 16);

enum class IoOp : uint8_t {
  read = 0,
  write = 1,
  flush = 2,
  discard = 3,
  write_same = 4,
  write_zeroes = 5,
  zone_open = 10,
  zone_close = 11,
  zone_finish = 12,
  zone_append = 13,
  zone_reset_all = 14,
  zone_reset = 15,
  report_zones = 18,
};

namespace io_flag {
inline constexpr uint32_t failfast_dev = 1u << 8;
inline constexpr uint32_t failfast_transport = 1u << 9;
inline constexpr uint32_t failfast_driver = 1u << 10;
inline constexpr uint32_t meta = 1u << 11;
inline constexpr uint32_t fua = 1u << 13;
inline constexpr uint32_t no_unmap = 1u << 15;
inline constexpr uint32_t swap = 1u << 16;
inline constexpr uint32_t need_reg_buf = 1u << 17;
inline constexpr uint32_t integrity = 1u << 18;
inline constexpr uint32_t shmem_zero_copy = 1u << 19;
}  // namespace io_flag

[[nodiscard]] constexpr IoOp op_of(const IoDesc& desc) {
  return static_cast<IoOp>(desc.op_flags & 0xff);
}
[[nodiscard]] constexpr bool has_flag(const IoDesc& desc, uint32_t flag) {
  return (desc.op_flags & flag) != 0;
}

// ---- offsets in /dev/ublkcN ---------------------------------------------------------------------

inline constexpr uint64_t cmd_buf_offset = 0;
inline constexpr uint64_t io_buf_offset = 0x80000000;
inline constexpr uint32_t queue_depth_max = 4096;
inline constexpr unsigned io_buf_bits = 25;
inline constexpr unsigned tag_shift = io_buf_bits;
inline constexpr unsigned tag_bits = 16;
inline constexpr unsigned queue_shift = tag_shift + tag_bits;
inline constexpr unsigned queue_bits = 12;
inline constexpr uint32_t queues_max = 1u << queue_bits;
inline constexpr uint64_t integrity_flag = uint64_t{1} << 62;

// Where mmap finds the descriptors of a queue: every queue has room for queue_depth_max of them.
[[nodiscard]] constexpr uint64_t desc_offset(uint16_t queue, uint64_t page_bytes = 4096) {
  const uint64_t each = queue_depth_max * sizeof(IoDesc);
  return cmd_buf_offset + queue * ((each + page_bytes - 1) / page_bytes * page_bytes);
}
// The length mmap insists on.
[[nodiscard]] constexpr uint64_t desc_bytes(uint16_t depth, uint64_t page_bytes = 4096) {
  return (depth * sizeof(IoDesc) + page_bytes - 1) / page_bytes * page_bytes;
}
static_assert(desc_offset(1) == 98304 && desc_bytes(64) == 4096 && desc_bytes(4096) == 98304);

// USER_COPY: the position that pread and pwrite use for a request's data.
[[nodiscard]] constexpr uint64_t user_copy_offset(uint16_t queue, uint16_t tag, uint32_t offset) {
  return io_buf_offset + ((uint64_t{queue} << queue_shift) | (uint64_t{tag} << tag_shift) | offset);
}

// ---- zero copy ----------------------------------------------------------------------------------

// AUTO_BUF_REG: sqe->addr of FETCH and COMMIT_AND_FETCH.
inline constexpr uint8_t auto_buf_reg_fallback = 1u << 0;
[[nodiscard]] constexpr uint64_t auto_buf_reg_addr(uint16_t index, uint8_t reg_flags) {
  return index | (uint64_t{reg_flags} << 16);
}

// SHMEM_ZC: REG_BUF's buffer, and what a descriptor's addr then holds.
struct ShmemBufReg {
  uint64_t addr;
  uint64_t len;
  uint32_t flags;
  uint32_t reserved;
};
static_assert(sizeof(ShmemBufReg) == 24);
inline constexpr uint32_t shmem_buf_read_only = 1u << 0;
[[nodiscard]] constexpr uint16_t shmem_index(uint64_t addr) {
  return static_cast<uint16_t>(addr >> 32);
}
[[nodiscard]] constexpr uint32_t shmem_offset(uint64_t addr) { return static_cast<uint32_t>(addr); }

}  // namespace ublk_operator::abi

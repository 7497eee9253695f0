#include "node/ublk/device.h"

#include <array>
#include <cstdio>
#include <utility>

#include "common/base/strings.h"

namespace ublk_operator {
namespace {

constexpr std::array<std::pair<uint64_t, const char*>, 20> flag_names{{
    {flags::supports_zero_copy, "SUPPORT_ZERO_COPY"},
    {flags::complete_in_task, "URING_CMD_COMP_IN_TASK"},
    {flags::need_get_data, "NEED_GET_DATA"},
    {flags::user_recovery, "USER_RECOVERY"},
    {flags::user_recovery_reissue, "USER_RECOVERY_REISSUE"},
    {flags::unprivileged, "UNPRIVILEGED_DEV"},
    {flags::ioctl_encode, "CMD_IOCTL_ENCODE"},
    {flags::user_copy, "USER_COPY"},
    {flags::zoned, "ZONED"},
    {flags::user_recovery_fail_io, "USER_RECOVERY_FAIL_IO"},
    {flags::update_size, "UPDATE_SIZE"},
    {flags::auto_buf_reg, "AUTO_BUF_REG"},
    {flags::quiesce, "QUIESCE"},
    {flags::per_io_daemon, "PER_IO_DAEMON"},
    {flags::buf_reg_off_daemon, "BUF_REG_OFF_DAEMON"},
    {flags::batch_io, "BATCH_IO"},
    {flags::integrity, "INTEGRITY"},
    {flags::safe_stop_dev, "SAFE_STOP_DEV"},
    {flags::no_auto_part_scan, "NO_AUTO_PART_SCAN"},
    {flags::shmem_zero_copy, "SHMEM_ZC"},
}};

}  // namespace

const char* to_string(DeviceState state) {
  switch (state) {
    case DeviceState::dead:
      return "DEAD";
    case DeviceState::live:
      return "LIVE";
    case DeviceState::quiesced:
      return "QUIESCED";
    case DeviceState::fail_io:
      return "FAIL_IO";
  }
  return "UNKNOWN";  // a state of a kernel newer than this program
}

std::string flags_to_string(uint64_t bits) {
  std::vector<std::string> names;
  for (const auto& [bit, name] : flag_names) {
    if ((bits & bit) != 0) names.emplace_back(name);
    bits &= ~bit;
  }
  if (bits != 0) {
    std::array<char, 24> hex{};
    std::snprintf(hex.data(), hex.size(), "0x%llx", static_cast<unsigned long long>(bits));
    names.emplace_back(hex.data());
  }
  return names.empty() ? "none" : join(names, "|");
}

std::string object_name(DeviceId id) { return "ublk" + std::to_string(id); }
std::string char_path(DeviceId id) { return "/dev/ublkc" + std::to_string(id); }
std::string block_path(DeviceId id) { return "/dev/ublkb" + std::to_string(id); }

}  // namespace ublk_operator

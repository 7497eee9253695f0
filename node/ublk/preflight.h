// Preflight: what this machine can do for ublk volumes, and what to do about what it cannot.
// Shape    look() reads the machine and changes nothing; judge() is pure. Needs neither root nor
//          the agent: what cannot be looked at without root is "unknown" and says so.
// Time     well under a second; a control device that hangs costs at most two.
// Source   drivers/block/ublk_drv.c; kernel releases by the commit that added each feature.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace ublk_operator {

struct PreflightCheck {
  std::string name;     // "io_uring", stable
  std::string status;   // "ok", "warning" (works, with a limit), "failed", "unknown"
  std::string message;  // what was found
  std::string remedy;   // what to do; empty when there is nothing to do
};

struct PreflightFacts {
  std::string kernel_release;        // "6.12.107+deb13-amd64"
  bool module_loaded = false;        // or built in
  bool module_available = false;     // in this kernel's module folder
  bool sys_admin = false;            // CAP_SYS_ADMIN is effective
  int control_err = 0;               // of opening /dev/ublk-control, 0: it opens
  int io_uring_disabled = 0;         // sysctl kernel.io_uring_disabled; 0 where it does not exist
  int io_uring_err = 0;              // of making a ring as control commands need it, 0: it works
  std::optional<uint64_t> features;  // none: could not be asked
  std::optional<uint64_t> memlock_bytes;  // RLIMIT_MEMLOCK; none: unlimited
  bool udev_running = false;
  bool dev_is_devtmpfs = false;  // /dev shows nodes as the kernel makes them
  bool sysfs_present = false;
  bool sysfs_writable = false;
};

[[nodiscard]] PreflightFacts look();
[[nodiscard]] std::vector<PreflightCheck> judge(const PreflightFacts& facts);

// judge(look()).
[[nodiscard]] std::vector<PreflightCheck> preflight();

}  // namespace ublk_operator

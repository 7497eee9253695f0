// The driver itself: is it there, and can it be loaded.
// Errors   ENOENT: there is no modprobe, or no module for this kernel (detail says what it said,
//          and what to do); errno of starting it.
// Time     modprobe's, a second or so; nothing when the driver is there.
// Threads  any.
#pragma once
#include <atomic>
#include <cstdint>
#include <string>

#include "common/base/result.h"

namespace ublk_operator {

// Makes `control` be there: runs `modprobe ublk_drv` when it is not.
[[nodiscard]] Result<void> load_driver(const std::string& control = "/dev/ublk-control",
                                       const std::string& modprobe = "modprobe");

// The kernel has no driver, so that there is no device either: neither `control` nor `sysfs`, its
// entry there, exists. False where only `control` is missing: this /dev is not the kernel's then,
// and what devices there are is not known.
[[nodiscard]] bool driver_missing(const std::string& control = "/dev/ublk-control",
                                  const std::string& sysfs = "/sys/class/misc/ublk-control");

// What is known of the driver: nothing, until it is found.
class KnownDriver {
 public:
  void found(uint64_t features) {
    features_ = features;
    there_ = true;  // after them
  }
  [[nodiscard]] bool there() const { return there_; }
  [[nodiscard]] uint64_t features() const { return features_; }  // GET_FEATURES; 0: not known

 private:
  std::atomic<uint64_t> features_ = 0;
  std::atomic<bool> there_ = false;
};

}  // namespace ublk_operator

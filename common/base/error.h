// Error: what failed, on which object, why, and what to do about it. The one error type of the
// project; it keeps the errno number, because callers decide by it (EBUSY: not yet, ENODEV: gone,
// ETIMEDOUT: outcome unknown). Printed as "EBUSY start_user_recovery ublk3: the old server still
// holds /dev/ublkc3".
#pragma once
#include <string>
#include <string_view>

namespace ublk_operator {

struct Error {
  int err = 0;            // an errno, always positive
  std::string operation;  // what was tried, snake_case: "start_dev", "open"
  std::string object;     // on what: "ublk3", "/var/lib/volumes/a.img", "volume pgdata"
  std::string detail;     // why, and what to do; may be empty

  [[nodiscard]] std::string to_string() const;
};

// The error of the system call that just failed: reads errno.
[[nodiscard]] Error errno_error(std::string_view operation, std::string_view object,
                                std::string_view detail = {});

// "EBUSY" for 16, "errno 4711" for numbers without a name.
[[nodiscard]] std::string errno_name(int err);

// For broken assumptions about our own code: prints and aborts.
[[noreturn]] void panic(std::string_view what, const char* file, int line);

}  // namespace ublk_operator

#define UBLK_CHECK(condition) \
  ((condition) ? void(0) : ::ublk_operator::panic(#condition, __FILE__, __LINE__))

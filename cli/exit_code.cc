#include "cli/exit_code.h"

#include <cerrno>

namespace ublk_operator {

ExitCode exit_code_of(const Error& error) {
  switch (error.err) {
    case EINVAL:
    case EFBIG:
      return ExitCode::usage;
    case ENOENT:
      return ExitCode::not_found;
    case ETIMEDOUT:
      return ExitCode::timed_out;
    case EBUSY:
      return ExitCode::in_use;
    case ENOTCONN:
      return ExitCode::unreachable;
    default:
      return ExitCode::failed;
  }
}

}  // namespace ublk_operator

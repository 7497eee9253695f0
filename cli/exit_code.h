// Exit codes of ublkctl: what a script may rely on. The same list stands in `ublkctl --help` and
// docs/ublkctl.md.
#pragma once
#include "common/base/error.h"

namespace ublk_operator {

enum class ExitCode : int {
  ok = 0,
  failed = 1,     // the agent said no, or something here went wrong
  usage = 2,      // wrong arguments, or a manifest that is not valid: nothing was done
  not_found = 3,  // no volume of that name
  timed_out = 4,  // wait: not so in time; others: the agent did not answer, the outcome is unknown
  in_use = 5,     // refused because the device is in use; --force overrides
  unreachable = 6,  // the agent cannot be reached
};

[[nodiscard]] ExitCode exit_code_of(const Error& error);

}  // namespace ublk_operator

// Session: what a command works with. Commands know a VolumeService, not how it is reached: the
// local agent's, or a cluster's.
#pragma once
#include <istream>
#include <ostream>
#include <string>

#include "cli/exit_code.h"
#include "common/localapi/service.h"

namespace ublk_operator {

struct Session {
  VolumeService& service;
  std::istream& in;
  std::ostream& out;                // results, and nothing else: scripts read it
  std::ostream& err;                // what failed, on which object, why, what to do
  bool cluster = false;             // the volumes are those of a cluster
  std::string program = "ublkctl";  // as the user calls it

  // Says what went wrong; the exit code that belongs to it.
  [[nodiscard]] ExitCode fail(const Error& error) const {
    err << program << ": " << error.to_string() << "\n";
    return exit_code_of(error);
  }
  [[nodiscard]] ExitCode fail_usage(const std::string& what) const {
    err << program << ": " << what << "\n";
    return ExitCode::usage;
  }
};

// The exit code of several steps is that of the first that failed.
inline void note(ExitCode& sum, ExitCode step) {
  if (sum == ExitCode::ok) sum = step;
}

}  // namespace ublk_operator

// Disposable: runs one command that the kernel may never return from (STOP_DEV, DEL_DEV, opening a
// disk) in a process of its own: `ublk-node helper ...`. A worker of io_uring in an uninterruptible
// wait makes its owner unkillable; this owner may be abandoned.
// Bounds   one abandoned process for each device or folder: until it has ended no other is started
//          for it.
// Errors   the errno the helper exited with, its message as detail; ETIMEDOUT: it was killed and
//          left behind, the outcome is unknown, or an earlier one is still left.
// Threads  any.
#pragma once
#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "common/base/result.h"

namespace ublk_operator {

struct DisposableResult {
  std::string output;  // what it printed
};

class Disposable {
 public:
  virtual ~Disposable() = default;
  // arguments: {"stop", "3"}; see run_helper() for what there is.
  [[nodiscard]] virtual Result<DisposableResult> run(const std::vector<std::string>& arguments,
                                                     std::chrono::milliseconds timeout) = 0;
};

// `program`: this program (/proc/self/exe).
[[nodiscard]] std::unique_ptr<Disposable> make_disposable(const std::string& program);

// The other side: executes one command and returns the exit status (an errno, 0 for success).
// Prints a message.
//   stop N | try-stop N | delete N | delete-async N | users N
//   pool FOLDER [require-mount]   prints "CAPACITY FREE", in bytes
[[nodiscard]] int run_helper(const std::vector<std::string>& arguments);

}  // namespace ublk_operator

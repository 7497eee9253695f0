// HelperProcess: `PROGRAM helper WORDS...` in a process of its own: started, and waited for by
// whoever has its descriptor, or left behind when the kernel does not let it go.
// Errors   finish(): the errno that it exited with, what it printed as detail.
// Bounds   8 KiB of what it printed.
// Threads  one at a time.
#pragma once
#include <chrono>
#include <string>
#include <vector>

#include "common/base/pidfd.h"
#include "common/base/result.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {

class HelperProcess {
 public:
  [[nodiscard]] static Result<HelperProcess> start(const std::string& program,
                                                   const std::vector<std::string>& words);
  HelperProcess(HelperProcess&& other) noexcept;
  HelperProcess& operator=(HelperProcess&& other) noexcept;
  HelperProcess(const HelperProcess&) = delete;
  HelperProcess& operator=(const HelperProcess&) = delete;
  ~HelperProcess();  // kills it, and does not wait

  [[nodiscard]] int fd() const { return pidfd_.fd(); }  // readable once it has ended
  [[nodiscard]] bool wait(std::chrono::steady_clock::time_point until) const;
  void kill() const;
  // True: it has ended, and nothing is left of it. Does not wait.
  bool reap();
  // What it printed; after it ended, and once.
  [[nodiscard]] Result<std::string> finish();

 private:
  HelperProcess(std::vector<std::string> words, Pidfd pidfd, UniqueFd output)
      : words_(std::move(words)), pidfd_(std::move(pidfd)), output_(std::move(output)) {}

  std::vector<std::string> words_;
  Pidfd pidfd_;  // not valid: reaped
  UniqueFd output_;
};

}  // namespace ublk_operator

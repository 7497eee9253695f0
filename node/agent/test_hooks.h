// TestHooks: points at which a test may stop a recovery and kill somebody, without sleeping. Off
// unless the agent is started with --test-hooks DIR. A hook is a FIFO DIR/NAME.POINT; whoever
// reaches the point writes its server's pid and a newline to it and goes no further until that
// server is dead.
//   before_open, after_mmap, half_fetched   in the server, see GrantMessage::halt_at
//   before_end                              in the agent, instead of END_USER_RECOVERY
#pragma once
#include <string>
#include <utility>

#include "common/base/unique_fd.h"

namespace ublk_operator {

class TestHooks {
 public:
  TestHooks() = default;
  explicit TestHooks(std::string dir) : dir_(std::move(dir)) {}
  // The FIFO, open for writing; invalid when this point is not hooked.
  [[nodiscard]] UniqueFd find(const std::string& volume, const std::string& point) const;

 private:
  std::string dir_;
};

}  // namespace ublk_operator

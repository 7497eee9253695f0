// GracePeriods: while an Expedited is held the kernel ends its RCU grace periods at once instead of after some jiffies
// (/sys/kernel/rcu_expedited). A dead server's ring waits for such periods before the kernel lets go of the device; the disk
// of mode None for several (docs/decisions/007).
// The switch is the whole machine's, so: it is on only while a device waits, by whoever holds an Expedited, which they bound;
// where it is on already it is left alone; and what an agent that died left on, the next one turns off, by the record file.
// Where the switch cannot be written nothing is expedited: recovery is slower, nothing else. The kernel's rcu_normal
// (PREEMPT_RT) wins over it (rcu_gp_is_normal, kernel/rcu/update.c).
// Threads  any. GracePeriods outlives what it gave out.
#pragma once
#include <mutex>
#include <string>

#include "common/base/log.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {

class GracePeriods {
 public:
  // Never expedites.
  GracePeriods() = default;
  // `switch_path`: the kernel's file. `record_path`: what an agent leaves for the next one, on a file system that ends with the
  // boot, as the switch does.
  GracePeriods(const std::string& switch_path, const std::string& record_path, const Logger& log);
  ~GracePeriods() = default;
  GracePeriods(const GracePeriods&) = delete;
  GracePeriods& operator=(const GracePeriods&) = delete;

  class Expedited {
   public:
    Expedited(Expedited&& other) noexcept;
    Expedited& operator=(Expedited&& other) = delete;
    Expedited(const Expedited&) = delete;
    Expedited& operator=(const Expedited&) = delete;
    ~Expedited();

   private:
    friend class GracePeriods;
    explicit Expedited(GracePeriods* periods) : periods_(periods) {}
    GracePeriods* periods_;
  };
  // Quick: three system calls at most, none of which waits.
  [[nodiscard]] Expedited expedite();

 private:
  void leave();
  void turn_on();
  void turn_off();

  std::mutex mutex_;
  UniqueFd switch_;
  UniqueFd record_;  // '1': we turned the switch on and did not turn it off
  unsigned holders_ = 0;
  bool ours_ = false;
};

}  // namespace ublk_operator

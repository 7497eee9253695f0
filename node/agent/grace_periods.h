// GracePeriods: while somebody holds an Expedited, for a second at most, the kernel ends its RCU
// grace periods at once instead of after some jiffies (/sys/kernel/rcu_expedited). A dead server's
// ring waits for such periods before the kernel lets go of the device; the disk of mode None for
// several (docs/decisions/007). The switch is the whole machine's. So a thread of its own, which no
// volume holds up, turns it off when its time is over; where it is on already it is left alone; and
// what an agent that died left on, the next one turns off, by the record file. Where the switch
// cannot be written nothing is expedited: recovery is slower, nothing else. The kernel's rcu_normal
// (PREEMPT_RT) wins over it (rcu_gp_is_normal, kernel/rcu/update.c).
// Threads  any. GracePeriods outlives what it gave out.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "common/base/log.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {

struct GracePeriodsOptions {
  std::string switch_path = "/sys/kernel/rcu_expedited";
  // What an agent leaves for the next one; on a file system that ends with the boot, as the switch
  // does.
  std::string record_path;
  bool expedite = true;  // false: only what a dead agent left on is turned off
  std::chrono::milliseconds at_most;
};

class GracePeriods {
 public:
  GracePeriods(GracePeriodsOptions options, const Logger& log);
  ~GracePeriods();  // off, if it was on by us
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
    Expedited(GracePeriods* periods, uint64_t id) : periods_(periods), id_(id) {}
    GracePeriods* periods_;
    uint64_t id_;
  };
  // Quick: a few system calls, none of which waits.
  [[nodiscard]] Expedited expedite();

 private:
  using Clock = std::chrono::steady_clock;
  void leave(uint64_t id);
  void watch_time();
  void turn_on();
  void turn_off();

  const GracePeriodsOptions options_;
  UniqueFd switch_;
  UniqueFd record_;  // '1': we turned the switch on and did not turn it off
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint64_t, Clock::time_point> holders_;  // until when each; later ones later
  uint64_t next_id_ = 0;
  bool on_ = false;  // by us
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace ublk_operator

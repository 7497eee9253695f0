#include "common/base/run_first.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

namespace ublk_operator {

Result<void> run_first(pthread_t thread) {
  sched_param parameters{};
  parameters.sched_priority = sched_get_priority_min(SCHED_RR);
  if (const int err = pthread_setschedparam(thread, SCHED_RR, &parameters); err != 0)
    return Error{err, "sched_setscheduler", "", "no real-time priority is allowed"};
  return {};
}

namespace {
// Linux has a nice value a thread; 0 is the caller.
int nice_of(pid_t thread) { return ::getpriority(PRIO_PROCESS, static_cast<id_t>(thread)); }
void set_nice(int value) {
  if (nice_of(0) != value) (void)::setpriority(PRIO_PROCESS, 0, value);
}
void run_ordinarily() {
  const sched_param parameters{};
  (void)pthread_setschedparam(pthread_self(), SCHED_OTHER, &parameters);
}
}  // namespace

void run_as_others() {
  run_ordinarily();
  set_nice(nice_of(::getpid()));
}

void give_way() {
  run_ordinarily();
  if (nice_of(0) < 0) set_nice(0);
}

}  // namespace ublk_operator

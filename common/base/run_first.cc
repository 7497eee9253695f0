#include "common/base/run_first.h"

#include <sched.h>

namespace ublk_operator {

Result<void> run_first(pthread_t thread) {
  sched_param parameters{};
  parameters.sched_priority = sched_get_priority_min(SCHED_RR);
  if (const int err = pthread_setschedparam(thread, SCHED_RR, &parameters); err != 0)
    return Error{err, "sched_setscheduler", "", "no real-time priority is allowed"};
  return {};
}

void run_as_others() {
  const sched_param parameters{};
  (void)pthread_setschedparam(pthread_self(), SCHED_OTHER, &parameters);
}

}  // namespace ublk_operator

// Threads that run before every ordinary one of the machine, for a moment of computing: SCHED_RR at
// its lowest priority (sched(7)), which neither nice values nor the CPU weights of cgroups hold up;
// whoever was made real-time on purpose still comes first. The kernel leaves ordinary threads 5 %
// of the time all the same. Only for what is short: who never lowers itself is ended by
// RLIMIT_RTTIME where that is set.
#pragma once
#include <pthread.h>

#include "common/base/result.h"

namespace ublk_operator {

// EPERM: neither CAP_SYS_NICE nor RLIMIT_RTPRIO, or a kernel with RT_GROUP_SCHED whose cgroup has
// no share.
[[nodiscard]] Result<void> run_first(pthread_t thread);
// The calling thread is an ordinary one again, at the nice value of its process. Needs no
// privilege, but after give_way().
void run_as_others();
// The calling thread is an ordinary one of nice value 0, where it had a better one: for what others
// need not wait for. To go back needs CAP_SYS_NICE or RLIMIT_NICE.
void give_way();

}  // namespace ublk_operator

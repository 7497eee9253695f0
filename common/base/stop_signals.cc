#include "common/base/stop_signals.h"

#include <pthread.h>
#include <sys/signalfd.h>

#include <cerrno>
#include <csignal>

namespace ublk_operator {

Result<UniqueFd> stop_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  if (const int err = ::pthread_sigmask(SIG_BLOCK, &set, nullptr); err != 0)
    return Error{err, "sigmask", "", ""};
  UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!fd.valid()) return errno_error("signalfd", "");
  return fd;
}

}  // namespace ublk_operator

#include "node/ublk/driver.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>

namespace ublk_operator {

Result<void> load_driver(const std::string& control, const std::string& modprobe) {
  if (::access(control.c_str(), F_OK) == 0) return {};
  std::string program = modprobe;
  std::string module = "ublk_drv";
  const std::array<char*, 3> argv{program.data(), module.data(), nullptr};
  pid_t pid = -1;
  if (const int err = ::posix_spawnp(&pid, program.c_str(), nullptr, nullptr, argv.data(), environ);
      err != 0)
    return Error{err, "load_driver", "ublk_drv",
                 modprobe + " cannot be started; load the module some other way"};
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  // The node is made by the kernel, in devtmpfs, before modprobe returns.
  if (::access(control.c_str(), F_OK) == 0) return {};
  return Error{
      ENOENT, "load_driver", "ublk_drv",
      WIFEXITED(status) && WEXITSTATUS(status) == 0
          ? control + " is not there although the module is loaded: is /dev a devtmpfs?"
          : "modprobe failed: this node needs a kernel with CONFIG_BLK_DEV_UBLK (Linux 6.0 "
            "or newer) and its modules in /lib/modules"};
}

bool driver_missing(const std::string& control, const std::string& sysfs) {
  return ::access(control.c_str(), F_OK) != 0 && errno == ENOENT &&
         ::access(sysfs.c_str(), F_OK) != 0 && errno == ENOENT;
}

}  // namespace ublk_operator

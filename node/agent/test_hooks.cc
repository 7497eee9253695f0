#include "node/agent/test_hooks.h"

#include <fcntl.h>
#include <sys/stat.h>

namespace ublk_operator {

UniqueFd TestHooks::find(const std::string& volume, const std::string& point) const {
  if (dir_.empty()) return {};
  const std::string path = dir_ + "/" + volume + "." + point;
  // Read and write: opening a FIFO for writing alone would wait for, or fail without, a reader.
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  struct stat info{};
  if (!fd.valid() || ::fstat(fd.get(), &info) < 0 || !S_ISFIFO(info.st_mode)) return {};
  return fd;
}

}  // namespace ublk_operator

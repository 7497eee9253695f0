#include "node/server/memory.h"

#include <unistd.h>

#include <cerrno>
#include <string>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace ublk_operator {

Result<Mapping> map_buffers(size_t bytes) {
  if (bytes == 0) return Mapping{};
  const auto page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  bytes = (bytes + page_bytes - 1) / page_bytes * page_bytes;
  const std::string object = std::to_string(bytes) + " bytes of buffers";
  // Without access at first: under MCL_FUTURE the pages would otherwise come at once, and small.
  void* address = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED)
    return errno_error("mmap", object,
                       errno == EAGAIN ? "more memory than RLIMIT_MEMLOCK allows to lock" : "");
  Mapping mapping(address, bytes);
  // Advice: a kernel without it serves as well.
  (void)madvise(address, bytes, MADV_HUGEPAGE);
  (void)madvise(address, bytes, MADV_DONTDUMP);
  if (mprotect(address, bytes, PROT_READ | PROT_WRITE) != 0) return errno_error("mprotect", object);
  if (madvise(address, bytes, MADV_POPULATE_WRITE) != 0) {
    if (errno != EINVAL) return errno_error("madvise", object, "not enough memory");
    for (size_t at = 0; at < bytes; at += page_bytes)  // before Linux 5.14
      static_cast<volatile std::byte*>(address)[at] = std::byte{0};
  }
  return mapping;
}

}  // namespace ublk_operator

#include "node/backends/file/direct_io.h"

#include <fcntl.h>
#include <linux/stat.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace ublk_operator {

Result<void> check_direct_alignment(int fd, uint32_t logical_block_bytes, const std::string& path) {
  const auto unfit = [&path](std::string detail) {
    return Error{EINVAL, "open_backend", path, std::move(detail)};
  };
  const auto too_small = [&](const std::string& needed) {
    return unfit("direct I/O on this file needs blocks of " + needed +
                 ", the volume's logical blocks are " + std::to_string(logical_block_bytes) +
                 " bytes: set logicalBlockSize, or directIO: false");
  };
  struct statx info{};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0) {
    if (info.stx_dio_offset_align == 0)
      return unfit("the file system cannot do direct I/O on this file: set directIO: false");
    if (info.stx_dio_offset_align > logical_block_bytes)
      return too_small(std::to_string(info.stx_dio_offset_align) + " bytes");
    return {};
  }
  const auto page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* page =
      mmap(nullptr, page_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return errno_error("mmap", path);
  const ssize_t got = pread(fd, page, logical_block_bytes, static_cast<off_t>(logical_block_bytes));
  const int err = errno;
  munmap(page, page_bytes);
  if (got >= 0) return {};
  if (err == EINVAL) return too_small("4096 bytes");
  return Error{err, "open_backend", path, "a direct read of one block failed"};
}

}  // namespace ublk_operator

// Direct I/O in units of a volume's logical block: asked by the agent before a device is made for
// it, and by the server that is given the file.
#pragma once
#include <cstdint>
#include <string>

#include "common/base/result.h"

namespace ublk_operator {

// `fd` was opened with O_DIRECT. EINVAL: the file wants larger blocks (detail says which, and what
// to set), or its file system has no direct I/O on it. Where the file system does not say (statx
// without STATX_DIOALIGN), reading one block at an offset of one block is the proof.
[[nodiscard]] Result<void> check_direct_alignment(int fd, uint32_t logical_block_bytes,
                                                  const std::string& path);

}  // namespace ublk_operator

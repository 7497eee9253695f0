// The file backend: a volume's bytes are the bytes of one regular file.
//
//   config  {"kind": "file",
//            "path": "/var/lib/...",      for messages only: the file came open
//            "size_bytes": 1073741824,    of the volume; the file must hold at least that much
//            "direct": false,             the file was opened with O_DIRECT
//            "read_only": false,          the file may have been opened O_RDONLY
//            "logical_block_bytes": 512}  of the volume: what direct I/O must be able to do
//   fds     [the file], opened by the agent O_RDWR (O_RDONLY when read_only), with O_DIRECT when
//           direct. The server never opens a path: it may not even be able to.
//
//   read          READ; a file that became shorter than the volume is EIO: the data is lost, and
//                 zeroes would hide it
//   write         WRITE, with RWF_DSYNC for FUA
//   flush         fdatasync
//   discard       fallocate PUNCH_HOLE|KEEP_SIZE
//   write_zeroes  fallocate PUNCH_HOLE|KEEP_SIZE when space may be given back, else
//                 ZERO_RANGE|KEEP_SIZE; followed by fdatasync for FUA
//
// Short reads and writes go on with the rest; EINTR and EAGAIN are tried again a few times. Other
// errors pass unchanged, EOPNOTSUPP too (a file system without holes): the block layer answers it
// for a discard with success (a hint), for write-zeroes by writing zeroes.
// Fence   ring_end: all I/O is in the ring of its queue.
#pragma once
#include <memory>
#include <vector>

#include "node/backends/backend.h"

namespace ublk_operator {

// EINVAL: wrong config, not a regular file, smaller than the volume, opened in another way than the
// config says, or direct I/O needs larger blocks than the volume's. EPROTO: no descriptor came.
[[nodiscard]] Result<std::unique_ptr<Backend>> make_file_backend(const nlohmann::json& config,
                                                                 std::vector<UniqueFd> fds);

}  // namespace ublk_operator

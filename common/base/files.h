// Whole small files: read with a bound, written so that a crash leaves the old or the new one.
#pragma once
#include <sys/types.h>

#include <string>
#include <string_view>

#include "common/base/unique_fd.h"

namespace ublk_operator {

// EFBIG when the file holds more than `bytes_max`.
[[nodiscard]] Result<std::string> read_file(const std::string& path, size_t bytes_max);

// What a file must survive: a crash of the machine too, or (tmpfs, or what lies in a path that may
// not wait for a disk) only of the process.
enum class Durability { machine, process };

// Temporary file beside it, fsync, rename, fsync of the folder (no fsync for Durability::process).
// Any failure leaves the old file as it was.
[[nodiscard]] Result<void> write_file_atomically(const std::string& path, std::string_view text,
                                                 mode_t mode = 0600,
                                                 Durability durability = Durability::machine);

// unlink and fsync of the folder; a file that is not there is fine.
[[nodiscard]] Result<void> remove_file_durably(const std::string& path);

// mkdir -p; an existing folder keeps its mode.
[[nodiscard]] Result<void> make_directories(const std::string& path, mode_t mode = 0755);

// All of `data`, whatever write(2) does in between.
[[nodiscard]] Result<void> write_all(int fd, std::string_view data, std::string_view object);

}  // namespace ublk_operator

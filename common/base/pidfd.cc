#include "common/base/pidfd.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>

#include "common/base/files.h"
#include "common/base/strings.h"

namespace ublk_operator {

namespace {
std::string process_name(pid_t pid) { return "process " + std::to_string(pid); }
}  // namespace

Result<Pidfd> Pidfd::open(pid_t pid) {
  const auto fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
  if (fd < 0) return errno_error("pidfd_open", process_name(pid));
  return Pidfd(UniqueFd(fd), pid);
}

Result<Pidfd> Pidfd::open_thread(pid_t tid) {
  constexpr unsigned pidfd_thread = O_EXCL;  // PIDFD_THREAD (linux/pidfd.h)
  const auto fd = static_cast<int>(::syscall(SYS_pidfd_open, tid, pidfd_thread));
  if (fd < 0) return errno_error("pidfd_open", "thread " + std::to_string(tid));
  return Pidfd(UniqueFd(fd), tid);
}

bool Pidfd::exited() const {
  pollfd p{fd_.get(), POLLIN, 0};
  return ::poll(&p, 1, 0) == 1;
}

Result<void> Pidfd::kill(int signal) const {
  if (::syscall(SYS_pidfd_send_signal, fd_.get(), signal, nullptr, 0) < 0)
    return errno_error("pidfd_send_signal", process_name(pid_));
  return {};
}

Result<uint64_t> process_start_ticks(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/stat";
  auto text = read_file(path, 4096);
  if (!text) return std::move(text).error();
  // The command name (field 2) is in parentheses and may hold anything, so count from the last one.
  const size_t paren = text->rfind(')');
  const Error malformed{EPROTO, "parse", path, "unexpected format of /proc/PID/stat"};
  if (paren == std::string::npos || paren + 2 > text->size()) return malformed;
  const auto fields = split(std::string_view(*text).substr(paren + 2), ' ');
  constexpr size_t starttime = 22 - 3;  // the remaining fields begin with field 3
  if (fields.size() <= starttime) return malformed;
  uint64_t ticks = 0;
  const auto f = fields[starttime];
  if (std::from_chars(f.data(), f.data() + f.size(), ticks).ec != std::errc()) return malformed;
  return ticks;
}

Result<std::string> boot_id() {
  auto text = read_file("/proc/sys/kernel/random/boot_id", 128);
  if (!text) return std::move(text).error();
  return std::string(trim(*text));
}

}  // namespace ublk_operator

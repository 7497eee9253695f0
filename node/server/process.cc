#include "node/server/process.h"

#include <malloc.h>
#include <sys/capability.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <memory>
#include <string>

#include "common/base/files.h"
#include "common/base/strings.h"

namespace ublk_operator {
namespace {

// A server is ended by SIGKILL alone. SIGTERM reaches it when a service manager or a container
// runtime addresses the whole group: a server that then began to stop would stand between killed
// (the kernel recovers) and serving. SIGINT and SIGHUP come from a terminal that the spawner was
// started in; SIGPIPE from a channel that is gone.
void ignore_signals() {
  for (const int signal_number : {SIGTERM, SIGINT, SIGHUP, SIGPIPE})
    (void)signal(signal_number, SIG_IGN);
}

struct Capabilities {
  bool any = false;
  bool ipc_lock = false;
};

Capabilities own_capabilities() {
  const std::unique_ptr<_cap_struct, int (*)(void*)> own(cap_get_proc(), cap_free);
  const std::unique_ptr<_cap_struct, int (*)(void*)> none(cap_init(), cap_free);
  if (!own || !none) return {};
  cap_flag_value_t ipc_lock = CAP_CLEAR;
  (void)cap_get_flag(own.get(), CAP_IPC_LOCK, CAP_EFFECTIVE, &ipc_lock);
  const int differs = cap_compare(own.get(), none.get());
  return {.any = CAP_DIFFERS(differs, CAP_EFFECTIVE) || CAP_DIFFERS(differs, CAP_PERMITTED),
          .ipc_lock = ipc_lock == CAP_SET};
}

// PR_GET_IO_FLUSHER itself needs CAP_SYS_RESOURCE; the task's flags, field 9 of its stat, do not.
bool is_io_flusher() {
  constexpr unsigned long memalloc_noio = 0x0008'0000;   // PF_MEMALLOC_NOIO
  constexpr unsigned long local_throttle = 0x0010'0000;  // PF_LOCAL_THROTTLE (linux/sched.h)
  constexpr size_t flags_after_name = 6;                 // fields after the name's ")"
  const auto text = read_file("/proc/self/stat", 4096);
  if (!text) return false;
  const size_t name_end = text->rfind(") ");
  if (name_end == std::string::npos) return false;
  const auto fields = split(std::string_view(*text).substr(name_end + 2), ' ');
  if (fields.size() <= flags_after_name) return false;
  const unsigned long task_flags =
      std::strtoul(std::string(fields[flags_after_name]).c_str(), nullptr, 10);
  constexpr unsigned long both = memalloc_noio | local_throttle;
  return (task_flags & both) == both;
}

void prefault_stack() {
  constexpr size_t bytes = 64 << 10;  // far more than the main thread's deepest call
  constexpr size_t page_bytes = 4096;
  std::array<volatile char, bytes> stack;  // NOLINT: touched below, a byte a page
  for (size_t at = 0; at < bytes; at += page_bytes) stack[at] = 0;
}

// Under a limit that locked memory could reach, MCL_FUTURE would make later allocations fail: then
// rather run unlocked and say so.
bool lock_memory(bool may_exceed_limit, std::string& warning) {
  rlimit limit{};
  if (!may_exceed_limit &&
      (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY)) {
    warning = "memory is not locked: RLIMIT_MEMLOCK is " + std::to_string(limit.rlim_cur) +
              " bytes, it should be unlimited; under memory pressure I/O may wait for itself";
    return false;
  }
  if (mlockall(MCL_CURRENT | MCL_FUTURE) == 0) return true;
  warning = "memory is not locked: " + errno_error("mlockall", "server").to_string();
  return false;
}

}  // namespace

ReadyMessage set_up_process() {
  ignore_signals();
  // A core dump is written before the kernel lets go of ublkcN: 1.8 s of pause for 256 MiB. The
  // buffers hold user data, besides, which neither a dump nor a debugger of the same uid should
  // see.
  const rlimit no_core{.rlim_cur = 0, .rlim_max = 0};
  (void)setrlimit(RLIMIT_CORE, &no_core);
  (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
  // glibc gives each thread a heap of its own, 64 MiB of address space that counts as locked; the
  // data path does not allocate.
  (void)mallopt(M_ARENA_MAX, 1);

  const Capabilities capabilities = own_capabilities();
  ReadyMessage message;
  message.uid = getuid();
  message.has_capabilities = capabilities.any;
  message.no_new_privileges = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1;
  message.io_flusher = is_io_flusher();
  message.memory_locked = lock_memory(capabilities.ipc_lock, message.warning);
  prefault_stack();
  return message;
}

}  // namespace ublk_operator

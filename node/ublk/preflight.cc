#include "node/ublk/preflight.h"

#include <liburing.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <utility>

#include "common/base/files.h"
#include "common/base/strings.h"
#include "node/ublk/abi.h"
#include "node/ublk/control_device.h"
#include "node/ublk/modes.h"

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;

constexpr int cap_sys_admin = 21;  // linux/capability.h
// Buffers of a default volume (1 queue x 64 tags x 256 KiB) and some for the program itself.
constexpr uint64_t memlock_bytes_wanted = 64 << 20;

struct Version {
  unsigned major = 0;
  unsigned minor = 0;
  friend auto operator<=>(const Version&, const Version&) = default;
};

Version parse_version(const std::string& release) {
  Version version;
  const char* end = release.data() + release.size();
  const auto major = std::from_chars(release.data(), end, version.major);
  if (major.ec == std::errc{} && major.ptr != end && *major.ptr == '.')
    std::from_chars(major.ptr + 1, end, version.minor);
  return version;
}

// ---- looking ------------------------------------------------------------------------------------

bool module_in_folder(const std::string& release) {
  for (const char* list : {"modules.dep", "modules.builtin"}) {
    std::ifstream file("/lib/modules/" + release + "/" + list);
    std::string line;
    while (std::getline(file, line)) {
      if (line.find("/ublk_drv.ko") != std::string::npos) return true;
    }
  }
  return false;
}

bool has_sys_admin() {
  std::ifstream file("/proc/self/status");
  std::string line;
  while (std::getline(file, line)) {
    constexpr std::string_view key = "CapEff:";
    if (!line.starts_with(key)) continue;
    const std::string_view digits = trim(std::string_view(line).substr(key.size()));
    uint64_t mask = 0;
    std::from_chars(digits.data(), digits.data() + digits.size(), mask, 16);
    return (mask >> cap_sys_admin & 1) != 0;
  }
  return false;
}

int sysctl_number(const char* path) {
  const Result<std::string> text = read_file(path, 64);
  if (!text) return 0;
  const std::string_view digits = trim(*text);
  int value = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), value);
  return value;
}

int try_io_uring() {
  io_uring ring{};
  io_uring_params params{};
  params.flags = IORING_SETUP_SQE128;
  const int err = io_uring_queue_init_params(4, &ring, &params);
  if (err == 0) io_uring_queue_exit(&ring);
  return -err;
}

bool dev_is_devtmpfs() {
  std::ifstream file("/proc/self/mountinfo");
  std::string line;
  bool is = false;
  while (std::getline(file, line)) {  // a later mount on the same place covers an earlier one
    const std::vector<std::string_view> fields = split(line, ' ');
    if (fields.size() < 5 || fields[4] != "/dev") continue;
    is = line.find(" - devtmpfs ") != std::string::npos;
  }
  return is;
}

// ---- judging ------------------------------------------------------------------------------------

class Checks {
 public:
  void ok(std::string name, std::string message) {
    add(std::move(name), "ok", std::move(message), "");
  }
  void warning(std::string name, std::string message, std::string remedy) {
    add(std::move(name), "warning", std::move(message), std::move(remedy));
  }
  void failed(std::string name, std::string message, std::string remedy) {
    add(std::move(name), "failed", std::move(message), std::move(remedy));
  }
  void unknown(std::string name, std::string message, std::string remedy) {
    add(std::move(name), "unknown", std::move(message), std::move(remedy));
  }
  std::vector<PreflightCheck> take() { return std::move(checks_); }

 private:
  void add(std::string name, const char* status, std::string message, std::string remedy) {
    checks_.push_back({std::move(name), status, std::move(message), std::move(remedy)});
  }
  std::vector<PreflightCheck> checks_;
};

void judge_kernel(Checks& checks, const PreflightFacts& facts) {
  const std::string what = "Linux " + facts.kernel_release;
  const Version version = parse_version(facts.kernel_release);
  if (version < Version{6, 0}) {
    checks.failed("kernel", what + " has no ublk driver", "boot Linux 6.12 or newer");
  } else if (version < Version{6, 5}) {
    checks.failed("kernel", what + " cannot be asked for its ublk features (GET_FEATURES)",
                  "boot Linux 6.12 or newer");
  } else if (version < Version{6, 12}) {
    checks.warning("kernel", what + " is older than what this program is tested on",
                   "prefer Linux 6.12 or newer");
  } else {
    checks.ok("kernel", what);
  }
}

void judge_module(Checks& checks, const PreflightFacts& facts) {
  if (facts.module_loaded) {
    checks.ok("module", "ublk_drv is loaded");
  } else if (facts.module_available) {
    checks.failed("module", "ublk_drv is not loaded",
                  "modprobe ublk_drv; to have it after each boot: "
                  "echo ublk_drv > /etc/modules-load.d/ublk.conf");
  } else {
    checks.failed("module", "this kernel has no module ublk_drv (CONFIG_BLK_DEV_UBLK)",
                  "boot a kernel that has it: on Debian 12, linux-image-amd64 of trixie (6.12) or "
                  "newer; in a container, look at the host");
  }
}

void judge_control(Checks& checks, const PreflightFacts& facts) {
  switch (facts.control_err) {
    case 0:
      checks.ok("control-device", "/dev/ublk-control opens");
      break;
    case ENOENT:
      checks.failed("control-device", "/dev/ublk-control does not exist",
                    facts.module_loaded
                        ? "the driver is loaded, so this /dev is not the host's: in a container, "
                          "mount the host's /dev; under systemd, no PrivateDevices"
                        : "load the module first");
      break;
    case EACCES:
    case EPERM:
      checks.failed("control-device", "/dev/ublk-control may not be opened",
                    "run as root; in a container, privileged or with the device allowed");
      break;
    default:
      checks.failed("control-device",
                    "/dev/ublk-control does not open: " + errno_name(facts.control_err),
                    "see the kernel's log");
  }
  if (facts.sys_admin) {
    checks.ok("privileges", "CAP_SYS_ADMIN is effective");
  } else {
    checks.failed("privileges", "CAP_SYS_ADMIN is missing, and control commands need it",
                  "run the agent as root; preflight itself says more when run as root");
  }
}

void judge_io_uring(Checks& checks, const PreflightFacts& facts) {
  if (facts.io_uring_err == 0 && facts.io_uring_disabled == 0) {
    checks.ok("io_uring", "io_uring is allowed");
  } else if (facts.io_uring_err == 0) {
    // 1 allows members of a group and CAP_SYS_ADMIN; servers have neither.
    checks.failed("io_uring",
                  "kernel.io_uring_disabled is " + std::to_string(facts.io_uring_disabled) +
                      ": it works here, but not for servers, which run without capabilities",
                  "sysctl kernel.io_uring_disabled=0");
  } else if (facts.io_uring_err == EPERM && facts.io_uring_disabled != 0) {
    checks.failed("io_uring",
                  "io_uring is disabled (kernel.io_uring_disabled is " +
                      std::to_string(facts.io_uring_disabled) + ")",
                  "sysctl kernel.io_uring_disabled=0, and put it into /etc/sysctl.d");
  } else if (facts.io_uring_err == EPERM) {
    checks.failed("io_uring", "io_uring_setup is not permitted, most likely by a seccomp profile",
                  "in a container: privileged, or a seccomp profile that allows io_uring_setup, "
                  "io_uring_enter and io_uring_register");
  } else if (facts.io_uring_err == ENOMEM) {
    checks.failed("io_uring", "no locked memory is left for an io_uring", "raise RLIMIT_MEMLOCK");
  } else {
    checks.failed("io_uring",
                  "io_uring with SQE128 does not work: " + errno_name(facts.io_uring_err),
                  "boot Linux 6.12 or newer");
  }
}

void judge_features(Checks& checks, const PreflightFacts& facts) {
  if (!facts.features) {
    const char* remedy = "put right what is said above, then look again";
    checks.unknown("features", "the driver could not be asked", remedy);
    checks.unknown("recovery-modes", "the driver could not be asked", remedy);
    return;
  }
  const uint64_t features = *facts.features;
  checks.ok("features", flags_to_string(features));

  std::vector<std::string> can;
  std::vector<std::string> cannot;
  for (const auto& [mode, name] :
       std::array<std::pair<RecoveryMode, const char*>, 4>{{{RecoveryMode::none, "None"},
                                                            {RecoveryMode::queue, "Queue"},
                                                            {RecoveryMode::reissue, "Reissue"},
                                                            {RecoveryMode::fail_io, "FailIO"}}}) {
    (flags_for(mode, features) ? can : cannot).emplace_back(name);
  }
  if (cannot.empty()) {
    checks.ok("recovery-modes", join(can, ", "));
  } else {
    checks.warning("recovery-modes", join(can, ", ") + "; not " + join(cannot, ", "),
                   "FailIO needs Linux 6.13 or newer, Queue and Reissue 6.1");
  }
  if ((features & flags::quiesce) != 0) {
    checks.ok("hand-over", "a live device can change its server (QUIESCE)");
    checks.ok("hazards", "no known ones in this driver");
  } else {
    checks.warning("hand-over", "a live device cannot be handed to another server",
                   "needs Linux 6.16 or newer (UBLK_F_QUIESCE); upgrades of the server go by way "
                   "of a recovery");
    checks.warning("hazards",
                   "this driver cannot begin a recovery twice: a new server that dies before it "
                   "serves makes the volume unrecoverable; and a server that dies with every tag "
                   "in flight is noticed only by the request timeout",
                   "prefer Linux 6.16 or newer; until then the agent keeps queue/io_timeout short "
                   "and says Recoverable=False where a volume must be made again");
  }
  if ((features & flags::safe_stop_dev) == 0) {
    checks.warning("safe-stop", "whether a disk is in use can only be guessed before it is stopped",
                   "needs a kernel with TRY_STOP_DEV (UBLK_F_SAFE_STOP_DEV; 7.2 has it)");
  } else {
    checks.ok("safe-stop", "a disk in use is never stopped by mistake (TRY_STOP_DEV)");
  }
}

void judge_surroundings(Checks& checks, const PreflightFacts& facts) {
  if (!facts.memlock_bytes || *facts.memlock_bytes >= memlock_bytes_wanted) {
    checks.ok("locked-memory", facts.memlock_bytes ? std::to_string(*facts.memlock_bytes >> 20) +
                                                         " MiB may be locked"
                                                   : "not limited");
  } else if (facts.sys_admin) {
    checks.ok("locked-memory", "limited here; root's spawner takes the limit off its servers");
  } else {
    checks.warning("locked-memory",
                   "only " + std::to_string(*facts.memlock_bytes >> 10) +
                       " KiB may be locked; servers lock all their buffers",
                   "LimitMEMLOCK=infinity in the spawner's unit, or ulimit -l unlimited");
  }
  if (facts.dev_is_devtmpfs) {
    checks.ok("dev", "/dev is the kernel's own (devtmpfs)");
  } else {
    checks.warning("dev", "/dev is not devtmpfs: new device nodes may not appear here",
                   "in a container, mount the host's /dev; under systemd, no PrivateDevices");
  }
  if (facts.udev_running) {
    checks.ok("udev", "udevd is running");
  } else {
    checks.warning("udev", "udevd is not running or not visible: its rules do not apply",
                   "the agent sets owner, mode and by-name links itself; start udevd if other "
                   "programs need links such as /dev/disk/by-uuid");
  }
  if (!facts.sysfs_present) {
    checks.failed("sysfs", "/sys is not mounted: devices cannot be listed",
                  "mount -t sysfs sysfs /sys");
  } else if (!facts.sysfs_writable) {
    checks.warning("sysfs", "/sys is read-only: the request timeout cannot be set",
                   "in a container: privileged, or the host's /sys mounted read-write");
  } else {
    checks.ok("sysfs", "/sys is there and writable");
  }
}

}  // namespace

PreflightFacts look() {
  PreflightFacts facts;
  utsname name{};
  if (::uname(&name) == 0) facts.kernel_release = name.release;
  facts.module_loaded =
      ::access("/sys/module/ublk_drv", F_OK) == 0 || ::access(abi::kControlPath, F_OK) == 0;
  facts.module_available = facts.module_loaded || module_in_folder(facts.kernel_release);
  facts.sys_admin = has_sys_admin();
  facts.io_uring_disabled = sysctl_number("/proc/sys/kernel/io_uring_disabled");
  facts.io_uring_err = try_io_uring();

  const Result<std::unique_ptr<ControlDevice>> control = open_control_device();
  if (control) {
    const Result<uint64_t> features = (*control)->features(CallLimit{2'000ms, -1});
    if (features) facts.features = *features;
  } else if (control.error().operation == "open") {
    facts.control_err = control.err();
  }

  rlimit memlock{};
  if (::getrlimit(RLIMIT_MEMLOCK, &memlock) == 0 && memlock.rlim_cur != RLIM_INFINITY)
    facts.memlock_bytes = memlock.rlim_cur;
  facts.udev_running = ::access("/run/udev/control", F_OK) == 0;
  facts.dev_is_devtmpfs = dev_is_devtmpfs();
  facts.sysfs_present = ::access("/sys/class", F_OK) == 0;
  struct statvfs sysfs{};
  facts.sysfs_writable = ::statvfs("/sys", &sysfs) == 0 && (sysfs.f_flag & ST_RDONLY) == 0;
  return facts;
}

std::vector<PreflightCheck> judge(const PreflightFacts& facts) {
  Checks checks;
  judge_kernel(checks, facts);
  judge_module(checks, facts);
  judge_control(checks, facts);
  judge_io_uring(checks, facts);
  judge_features(checks, facts);
  judge_surroundings(checks, facts);
  return checks.take();
}

std::vector<PreflightCheck> preflight() { return judge(look()); }

}  // namespace ublk_operator

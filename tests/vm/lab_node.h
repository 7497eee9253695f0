// LabNode: a node of its own for a test: spawner and agent as real processes, with folders in a
// temporary directory, a folder of manifests, a pool, test hooks, and the local API to wait for
// what should happen. Needs root and ublk_drv. Everything it started is killed, and every device of
// its volumes deleted, when it is destroyed.
#pragma once
#include <sys/types.h>

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/api/volume.h"
#include "common/base/pidfd.h"
#include "common/localapi/client.h"
#include "node/ublk/control_device.h"

namespace ublk_operator::lab {

using namespace std::chrono_literals;

// Long enough for anything that should happen at all, on a VM without KVM whose host is busy.
inline constexpr auto patience = 60s;

struct ManifestOptions {
  std::string name = "vol";
  std::string mode = "Reissue";
  std::string size = "64Mi";
  std::string backend = "file";  // "null", "file"
  std::string path = {};         // of the file; default NAME.img
  std::string extra = {};        // further lines of spec, indented by two spaces
};
[[nodiscard]] std::string manifest(const ManifestOptions& options);

class LabNode {
 public:
  struct Options {
    unsigned standbys = 1;
    std::string pool = {};  // folder of pool "default"; empty: one in the temporary directory
    bool start = true;
    std::string agent_command = "agent";            // or "run": starts a spawner itself
    std::vector<std::string> agent_arguments = {};  // further ones
  };
  LabNode();
  explicit LabNode(Options options);
  ~LabNode();
  LabNode(const LabNode&) = delete;
  LabNode& operator=(const LabNode&) = delete;

  void start_spawner();
  void start_agent();
  void kill_spawner();  // SIGKILL, and waits for its end
  void kill_agent();
  void terminate_agent();  // SIGTERM

  [[nodiscard]] std::string dir(const std::string& name) const { return dir_ + "/" + name; }
  [[nodiscard]] std::string volumes() const { return dir("volumes"); }
  [[nodiscard]] std::string pool() const { return pool_; }
  void write_manifest(const std::string& file, const std::string& text) const;
  void apply(const ManifestOptions& options) const;  // writes NAME.yaml
  void remove_manifest(const std::string& file) const;

  [[nodiscard]] LocalApiClient& api() { return *api_; }
  [[nodiscard]] Volume get(const std::string& name);
  // Waits for it; a test failure, with the volume's status and events, when it does not come.
  [[nodiscard]] bool wait(const std::string& name, const std::string& what,
                          const std::function<bool(const std::optional<Volume>&)>& done,
                          std::chrono::milliseconds timeout = patience);
  [[nodiscard]] bool wait_ready(const std::string& name);
  [[nodiscard]] bool wait_gone(const std::string& name);
  [[nodiscard]] bool wait_condition(const std::string& name, const std::string& type,
                                    const std::string& status, const std::string& reason = "");
  [[nodiscard]] bool wait_recovered(const std::string& name, uint64_t more_than);
  [[nodiscard]] bool has_event(const std::string& name, const std::string& reason);
  [[nodiscard]] std::string story(
      const std::string& name);  // status and events, for failure messages

  [[nodiscard]] std::string device(const std::string& name) const {
    return "/dev/ublk/by-name/" + name;
  }
  [[nodiscard]] pid_t server_pid(const std::string& name);
  [[nodiscard]] pid_t agent_pid() const { return agent_->pid(); }
  [[nodiscard]] pid_t spawner_pid() const { return spawner_->pid(); }
  // SIGKILL to the server of the volume; returns when it is dead.
  void kill_server(const std::string& name);

  // A hook at which the next server (or the agent) stops; returns its pid when it got there.
  void hook(const std::string& volume, const std::string& point) const;
  [[nodiscard]] pid_t wait_hook(const std::string& volume, const std::string& point) const;
  void unhook(const std::string& volume, const std::string& point) const;
  // Waits for the hook, takes it away and kills the server that stands there; false, and a test
  // failure, when none gets there.
  [[nodiscard]] bool kill_at(const std::string& volume, const std::string& point);

  // The state and the server as the kernel reports them, asked past the agent.
  [[nodiscard]] std::string kernel_state(const std::string& name);
  [[nodiscard]] pid_t kernel_server_pid(const std::string& name);

 private:
  std::string dir_;
  std::string pool_;
  Options options_;
  std::optional<Pidfd> spawner_;
  std::optional<Pidfd> agent_;
  std::unique_ptr<LocalApiClient> api_;
  std::unique_ptr<ControlDevice> control_;
};

// The kernel's switch that expedites grace periods, the whole machine's: grace_periods.h.
inline constexpr const char* expedited_path = "/sys/kernel/rcu_expedited";

// Within `patience`, of what no event tells: a switch of the kernel, how a thread is scheduled.
[[nodiscard]] bool comes_true(const std::function<bool()>& what);

// SIGKILL by pid, and waits until it is gone (a child of ours or not).
void kill_and_wait(pid_t pid);

// What this kernel can do, by name: "FAIL_IO", "TRY_STOP".
[[nodiscard]] uint64_t kernel_features();
[[nodiscard]] bool can_fail_io();
[[nodiscard]] bool
repeats_recovery();  // 7.2: START_USER_RECOVERY changes nothing and may be repeated

// Runs a shell command; its exit status (-1: killed by a signal).
int shell(const std::string& command);
[[nodiscard]] std::string shell_output(const std::string& command);

}  // namespace ublk_operator::lab

#include "node/cluster/node_facts.h"

#include <algorithm>
#include <array>
#include <cerrno>

#include "common/api/quantity.h"
#include "common/base/limits.h"
#include "common/base/strings.h"
#include "node/ublk/device.h"
#include "node/ublk/modes.h"

namespace ublk_operator {

nlohmann::json node_status(const PreflightFacts& facts, const std::vector<PoolFacts>& pools,
                           const std::string& version) {
  const uint64_t features = facts.features.value_or(0);
  nlohmann::json status{{"kernelRelease", facts.kernel_release},
                        {"version", version},
                        {"features", nlohmann::json::array()},
                        {"modes", nlohmann::json::array()},
                        {"limits",
                         {{"volumes", limits::volumes_max},
                          {"queues", limits::queues_max},
                          {"queueDepth", limits::queue_depth_max}}},
                        {"pools", nlohmann::json::array()},
                        {"warnings", nlohmann::json::array()}};
  const std::string names = flags_to_string(features);
  if (features != 0)
    for (const auto name : split(names, '|')) status["features"].push_back(std::string(name));
  bool able = facts.features.has_value();
  constexpr std::array modes{RecoveryMode::none, RecoveryMode::queue, RecoveryMode::reissue,
                             RecoveryMode::fail_io};
  for (const RecoveryMode mode : modes)
    if (able && flags_for(mode, features)) status["modes"].push_back(to_string(mode));
  for (const auto& pool : pools) {
    nlohmann::json said{{"name", pool.name}, {"path", pool.path}};
    if (pool.problem.empty()) {
      const uint64_t grain = std::max<uint64_t>(pool.capacity_bytes / 100 / 4096 * 4096, 1);
      said["capacity"] = format_quantity(pool.capacity_bytes);
      said["free"] = format_quantity(pool.free_bytes / grain * grain);
    } else {
      status["warnings"].push_back("pool " + pool.name + ": " + pool.problem);
    }
    status["pools"].push_back(std::move(said));
  }
  for (const auto& check : judge(facts)) {
    // A pod does not see udevd's files, and the agent does not need it.
    if (check.status == "ok" || check.name == "udev") continue;
    if (check.status == "failed") able = false;
    status["warnings"].push_back(check.name + ": " + check.message +
                                 (check.remedy.empty() ? "" : "; " + check.remedy));
  }
  const bool missing = !facts.module_loaded && facts.control_err == ENOENT;
  std::string message = able ? "ublk works on this node" : "see status.warnings for what to do";
  if (missing)
    message =
        "Linux " + facts.kernel_release +
        " of this node has no ublk driver loaded: modprobe ublk_drv where the kernel has that "
        "module (CONFIG_BLK_DEV_UBLK; Linux 6.12 or newer is tested), else keep the DaemonSet "
        "off this node (node.nodeSelector of the chart). The agent begins by itself when "
        "/dev/ublk-control appears";
  status["conditions"] = {{{"type", "Ready"},
                           {"status", able ? "True" : "False"},
                           {"reason", able      ? "Serving"
                                      : missing ? "DriverMissing"
                                                : "PreflightFailed"},
                           {"message", message}}};
  return status;
}

}  // namespace ublk_operator

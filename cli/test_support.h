// What the tests of ublkctl share: volumes as an agent would show them, and a way to run a whole
// command line.
#pragma once
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "cli/ublkctl.h"
#include "common/localapi/fake_service.h"

namespace ublk_operator {

// A healthy volume, recovered once.
inline Volume pgdata() {
  Volume volume;
  volume.metadata.name = "pgdata";
  volume.metadata.uid = "6f9c";
  volume.metadata.generation = 2;
  volume.metadata.labels = {{"app", "pg"}};
  volume.spec.size_bytes = uint64_t{10} << 30;
  volume.spec.backend = FileBackendSpec{.path = "pg.img"};
  volume.status.observed_generation = 2;
  volume.status.conditions = {
      {"Ready", ConditionStatus::yes, "Serving", "the device is served", 2, "2026-01-02T03:04:05Z"},
      {"InUse", ConditionStatus::yes, "Open", "the device is open", 2, "2026-01-02T03:04:06Z"}};
  volume.status.device_id = 0;
  volume.status.device_path = "/dev/ublkb0";
  volume.status.link_path = "/dev/ublk/by-name/pgdata";
  volume.status.state = "LIVE";
  volume.status.server_pid = 4242;
  volume.status.lease_generation = 2;
  volume.status.recovery_count = 1;
  volume.status.last_recovery_duration = std::chrono::microseconds(41'234);
  volume.status.last_recovery_reason = "ServerKilled (signal 9)";
  volume.status.last_recovery_time = "2026-01-02T03:05:00Z";
  volume.status.size_bytes = uint64_t{10} << 30;
  volume.status.io = {{"read", {12, 49152, 0}}, {"write", {3, 12288, 1}}};
  volume.status.io_errors = {{"ENOSPC", 1}};
  return volume;
}

// A volume that has no device yet.
inline Volume scratch() {
  Volume volume;
  volume.metadata.name = "scratch";
  volume.spec.size_bytes = 64 << 20;
  volume.spec.recovery.mode = RecoveryMode::fail_io;
  volume.status.conditions = {{"Ready", ConditionStatus::no, "UnsupportedByKernel",
                               "FailIO needs Linux 6.14", 1, "2026-01-02T03:04:05Z"}};
  return volume;
}

// The service a fake keeps, lent to each run.
class Lent : public VolumeService {
 public:
  explicit Lent(VolumeService& service) : service_(service) {}
  std::vector<Volume> list() override { return service_.list(); }
  Result<Volume> get(const std::string& name) override { return service_.get(name); }
  std::vector<VolumeEvent> events(const std::string& volume) override {
    return service_.events(volume);
  }
  Result<std::vector<std::string>> apply(const std::string& manifest) override {
    return service_.apply(manifest);
  }
  Result<void> remove(const std::string& name) override { return service_.remove(name); }
  Result<void> stop(const std::string& name, bool stopped, bool force) override {
    return service_.stop(name, stopped, force);
  }
  Result<void> recover(const std::string& name, bool replace_server) override {
    return service_.recover(name, replace_server);
  }
  Result<void> pause(const std::string& name, bool paused) override {
    return service_.pause(name, paused);
  }
  nlohmann::json support_bundle() override { return service_.support_bundle(); }
  uint64_t watch(OnChange on_change) override { return service_.watch(std::move(on_change)); }
  void unwatch(uint64_t id) override { service_.unwatch(id); }
  Result<void> reachable() override { return service_.reachable(); }

 private:
  VolumeService& service_;
};

struct Outcome {
  int code = -1;
  std::string out;
  std::string err;
};

// ublkctl with these arguments, on this service.
inline Outcome run_on(VolumeService& service, const std::vector<std::string>& arguments,
                      const std::string& input = {},
                      const std::vector<PreflightCheck>& checks = {}) {
  std::istringstream in(input);
  std::ostringstream out;
  std::ostringstream err;
  const Environment environment{
      .in = in,
      .out = out,
      .err = err,
      .connect = [&](const std::string&) { return std::make_unique<Lent>(service); },
      .preflight = [&] { return checks; },
      .local_facts = [] { return nlohmann::json{{"uname", "Linux"}}; }};
  const int code = run_ublkctl(arguments, environment);
  return {code, out.str(), err.str()};
}

}  // namespace ublk_operator

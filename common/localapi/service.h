// VolumeService: what the agent offers to people on its machine (ublkctl), as an interface: the
// agent implements it, the local API's server carries it over a unix socket, and the client in
// ublkctl offers it again on the other side.
// Errors   ENOENT: no such volume; EINVAL: the request cannot be right (detail says why); EBUSY: in
//          use, and not forced; EEXIST: the name is taken by another manifest; EROFS: this source
//          of volumes cannot be written from here. The detail is a sentence for people, with what
//          to do. Through the local API also ENOTCONN: the agent cannot be reached (or was lost
//          before it answered: then the outcome is unknown), ETIMEDOUT: it did not answer in time
//          (outcome unknown), EPERM: only root may change things.
// Threads  every method from any thread.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/api/volume.h"
#include "common/base/result.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {

class VolumeService {
 public:
  virtual ~VolumeService() = default;
  // By name; a volume whose manifest is broken is listed with its last good spec.
  [[nodiscard]] virtual std::vector<Volume> list() = 0;
  [[nodiscard]] virtual Result<Volume> get(const std::string& name) = 0;
  // All events, or those of one volume, oldest first.
  [[nodiscard]] virtual std::vector<VolumeEvent> events(const std::string& volume) = 0;
  // Writes the manifest of each volume into the folder the agent watches (the file keeps what the
  // user wrote). The whole text is validated first; a folder that then takes no more files leaves
  // the volumes before applied, and the error names them. Returns the names.
  [[nodiscard]] virtual Result<std::vector<std::string>> apply(const std::string& manifest) = 0;
  // Removes the manifest: the volume then goes as soon as it is not in use.
  [[nodiscard]] virtual Result<void> remove(const std::string& name) = 0;
  // Stops the device until it is started again (`stopped` false), whatever the spec's `running`
  // says. EBUSY while it is in use, unless `force`: then waiting and new I/O fails with EIO.
  [[nodiscard]] virtual Result<void> stop(const std::string& name, bool stopped, bool force) = 0;
  // Forgets back-off and crash-loop verdict and recovers now. `replace_server`: also kills a server
  // that seems to live (a hung one) and recovers onto a new one.
  [[nodiscard]] virtual Result<void> recover(const std::string& name, bool replace_server) = 0;
  // Pauses reconciliation (nothing is started, stopped or recovered) or resumes it.
  [[nodiscard]] virtual Result<void> pause(const std::string& name, bool paused) = 0;
  // Everything a bug report needs, as one JSON object: versions, kernel, preflight, volumes,
  // events, decisions, state.
  [[nodiscard]] virtual nlohmann::json support_bundle() = 0;

  // Calls `on_change` (from some thread, quickly, never after unwatch returned) with each volume
  // that changed, starting with all there are; nullopt with the name for a volume that is gone.
  using OnChange = std::function<void(const std::string& name, const std::optional<Volume>&)>;
  [[nodiscard]] virtual uint64_t watch(OnChange on_change) = 0;
  virtual void unwatch(uint64_t id) = 0;  // not from within on_change

  // list, events, support_bundle and watch cannot return an error. Where there is a transport to
  // fail, they return nothing (watch: 0) and this says why (ENOTCONN, ETIMEDOUT, EPERM), until one
  // of them succeeds.
  [[nodiscard]] virtual Result<void> reachable() { return {}; }
};

}  // namespace ublk_operator

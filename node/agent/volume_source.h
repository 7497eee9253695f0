// VolumeSource: where it is said which volumes this node is to have: a folder of manifests, or the
// API server. Level-triggered: scan() says for every volume what is wanted now; the agent compares.
// Removal  only what the source itself says (SourceView::removed). A volume that is merely not
//          found, because its source is silent, broken or another one than it came from, is kept.
// Threads  one at a time; fd() is for poll.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/api/decode.h"
#include "common/api/volume.h"
#include "common/base/result.h"
#include "node/agent/state_store.h"

namespace ublk_operator {

struct WantedVolume {
  std::string uid;  // the object's, known even when its spec is not; empty: the node makes one
  // Empty: what is said is broken, keep what was accepted before. With a uid, that and the
  // generation are the API server's; without one the node makes its own.
  std::optional<Volume> volume;
  SourceIdentity source;
  // Why it is broken, or which of two documents of one name was passed over.
  std::vector<Problem> problems;
  friend bool operator==(const WantedVolume&, const WantedVolume&) = default;
};

// A volume that the agent has, and where it came from.
struct AcceptedVolume {
  SourceIdentity source;
  std::string uid;
};

// A volume that is to go.
struct RemovedVolume {
  std::string uid;  // of the object that is deleted; empty: the accepted one
  // What becomes of its data, as the source says it now; nullopt: as it was accepted.
  std::optional<ReclaimPolicy> reclaim_policy;
  friend bool operator==(const RemovedVolume&, const RemovedVolume&) = default;
};

struct SourceView {
  std::map<std::string, WantedVolume> volumes;
  // Those that the agent does not know are in it too where the source waits to hear that they are
  // gone.
  std::map<std::string, RemovedVolume> removed;
  std::vector<Problem> problems;  // of the source as a whole
};

class VolumeSource {
 public:
  virtual ~VolumeSource() = default;
  // Readable: call process_events().
  [[nodiscard]] virtual int fd() const = 0;
  // Drains the events; true: scan() again now.
  [[nodiscard]] virtual bool process_events() = 0;
  [[nodiscard]] virtual SourceView scan(const std::map<std::string, AcceptedVolume>& accepted) = 0;

  // For the local API. Writes the manifest of this one volume; `accepted`: where it is now.
  // EOPNOTSUPP: this source is written elsewhere (detail says where).
  [[nodiscard]] virtual Result<void> write_manifest(
      const std::string& name, const std::string& text,
      const std::optional<SourceIdentity>& accepted) = 0;
  [[nodiscard]] virtual Result<void> remove_manifest(const std::string& name,
                                                     const SourceIdentity& accepted) = 0;
};

}  // namespace ublk_operator

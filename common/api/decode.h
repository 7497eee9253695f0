// From text to UblkVolume and back. One decode path: YAML becomes a tree that remembers line and
// column, JSON is read into the same tree, and one set of rules turns the tree into a Volume.
// Errors   every problem of a document is reported (the first hundred), not only the first, each
//          with where it is ("vol.yaml:12:9"), what was expected, and the nearest valid name.
//          Nothing throws.
// Bounds   limits.h: bytes, depth, nodes with aliases expanded, documents of a file.
// Threads  pure functions.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/api/volume.h"
#include "common/base/result.h"
#include "nlohmann/json_fwd.hpp"

namespace ublk_operator {

struct Problem {
  std::string file;
  int line = 0;         // 1-based; 0: unknown
  int column = 0;       // 1-based
  std::string field;    // "spec.recovery.mode"; empty: the document as a whole
  std::string message;  // "unknown value 'Reisue'; expected None, Queue, Reissue or FailIO (did you
                        // mean 'Reissue'?)"
  // "vol.yaml:12:9: spec.recovery.mode: unknown value ..."
  [[nodiscard]] std::string to_string() const;
  friend bool operator==(const Problem&, const Problem&) = default;
};

// One document of a manifest file. `volume` is set when it is a valid UblkVolume. `name` is set as
// soon as metadata.name could be read, also from a document that is otherwise broken: a broken
// manifest keeps its volume.
struct DecodedDocument {
  std::optional<Volume> volume;
  std::string name;
  int line = 1;
  std::vector<Problem> problems;
};

struct DecodedManifest {
  std::vector<DecodedDocument> documents;
  // Problems of the file itself: not YAML at all, too large, too deep, an alias bomb, without any
  // document (as while it is being written). Then nothing is known about which volumes it meant to
  // hold beyond those in `documents`. A syntax error within a document whose name could be read is
  // a problem of that document, and one here says that the rest of the file is unknown.
  std::vector<Problem> problems;
  // While this is false, no volume that the file held before counts as removed: also a name may be
  // what was cut off.
  [[nodiscard]] bool ok() const;
};

// A YAML stream ("---" between documents) or JSON, which YAML contains. Empty documents are passed
// over. Documents of another kind are a problem each. Two documents with one name are a problem of
// the second.
[[nodiscard]] DecodedManifest decode_manifest(std::string_view text, const std::string& file);

// Rules that relate an update to what is: shrinking, another backend kind, pool or path. Empty:
// allowed.
[[nodiscard]] std::vector<Problem> validate_update(const Volume& current, const Volume& wanted,
                                                   const std::string& file);

// JSON as Kubernetes and the local API carry it: apiVersion, kind, metadata, spec, status. Fields
// at their default are written too, so that `ublkctl get -o yaml` shows what holds; only a volume
// without a size, whose manifest never was right, has no spec. from_json accepts what to_json wrote
// (status included) and passes over status fields that it does not know; EINVAL with all problems,
// E2BIG beyond the limits.
[[nodiscard]] nlohmann::json to_json(const Volume& volume);
[[nodiscard]] Result<Volume> volume_from_json(const nlohmann::json& json);
[[nodiscard]] nlohmann::json to_json(const Condition& condition);
[[nodiscard]] nlohmann::json to_json(const VolumeEvent& event);
[[nodiscard]] Result<VolumeEvent> event_from_json(const nlohmann::json& json);
// The same as YAML text, key order kept as people expect it: apiVersion, kind, metadata, spec,
// status.
[[nodiscard]] std::string to_yaml(const nlohmann::json& json);

}  // namespace ublk_operator

#include "common/api/decode.h"

#include <cerrno>
#include <map>
#include <utility>

#include "common/api/json_tree.h"
#include "common/api/quantity.h"
#include "common/api/volume_rules.h"
#include "common/api/yaml_tree.h"
#include "common/base/limits.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {
namespace {

DecodedDocument decode_document(const Tree& tree, const std::string& file) {
  DecodedDocument document;
  ProblemList problems(file);
  document.line = tree.at.line;
  document.name = read_name(tree);
  Volume volume = read_volume(tree, Origin::manifest, problems);
  document.problems = problems.take();
  if (document.problems.empty()) document.volume = std::move(volume);
  return document;
}

Error decode_error(const std::string& object, const std::vector<Problem>& problems) {
  std::string detail;
  for (const Problem& problem : problems) {
    if (!detail.empty()) detail += "; ";
    detail += problem.to_string();
  }
  return Error{EINVAL, "decode", object, detail};
}

}  // namespace

std::string Problem::to_string() const {
  std::string text = file;
  if (line > 0) {
    text += (text.empty() ? "line " : ":") + std::to_string(line) + ":" + std::to_string(column);
  }
  if (!field.empty()) text += (text.empty() ? "" : ": ") + field;
  return text + (text.empty() ? "" : ": ") + message;
}

bool DecodedManifest::ok() const {
  if (!problems.empty()) return false;
  for (const auto& document : documents) {
    if (!document.problems.empty()) return false;
  }
  return true;
}

DecodedManifest decode_manifest(std::string_view text, const std::string& file) {
  DecodedManifest manifest;
  std::map<std::string, int> lines;  // of the names so far

  const auto on_document = [&](const TreePtr& tree) -> std::optional<YamlError> {
    if (tree->kind == Tree::Kind::null) return std::nullopt;
    if (manifest.documents.size() == limits::volumes_max) {
      return YamlError{tree->at,
                       "more than " + std::to_string(limits::volumes_max) +
                           " documents; put the rest into another file",
                       nullptr};
    }
    DecodedDocument document = decode_document(*tree, file);
    if (!document.name.empty()) {
      const auto [first, added] = lines.emplace(document.name, document.line);
      if (!added) {
        document.volume.reset();
        document.problems.push_back({file, document.line, 1, "metadata.name",
                                     "'" + document.name +
                                         "' is already the name of the document in line " +
                                         std::to_string(first->second)});
      }
    }
    manifest.documents.push_back(std::move(document));
    return std::nullopt;
  };

  const auto error = read_yaml(text, on_document);
  if (!error) {
    // What an editor or `>` leaves for a moment before it writes. Taken for "no volumes", it would
    // remove them.
    if (manifest.documents.empty()) {
      manifest.problems.push_back({file, 0, 0, "",
                                   "holds no document; expected at least one UblkVolume (to remove "
                                   "volumes, remove the file)"});
    }
    return manifest;
  }
  Problem problem{file, error->at.line, error->at.column, "", error->message};
  const std::string name = error->partial == nullptr ? "" : read_name(*error->partial);
  if (name.empty()) {
    manifest.problems.push_back(std::move(problem));
    return manifest;
  }
  // The volume whose document is broken is told so; and the file as a whole is unread from there
  // on.
  Problem rest{file, problem.line, problem.column, "",
               "the file could not be read from here on: its other volumes are left as they are"};
  DecodedDocument broken;
  broken.name = name;
  broken.line = error->partial->at.line;
  broken.problems.push_back(std::move(problem));
  manifest.documents.push_back(std::move(broken));
  manifest.problems.push_back(std::move(rest));
  return manifest;
}

std::vector<Problem> validate_update(const Volume& current, const Volume& wanted,
                                     const std::string& file) {
  std::vector<Problem> problems;
  const auto refuse = [&](const char* field, std::string message) {
    problems.push_back({file, 0, 0, field, std::move(message)});
  };
  const uint64_t was = current.spec.size_bytes;
  const uint64_t is = wanted.spec.size_bytes;
  if (is < was) {
    refuse("spec.size", "may only grow: " + format_quantity(was) + " -> " + format_quantity(is) +
                            "; keep " + format_quantity(was) +
                            ", or make a smaller volume under another name and copy the data");
  }
  const std::string kind_was = backend_kind(current.spec.backend);
  const std::string kind_is = backend_kind(wanted.spec.backend);
  const std::string advice = "; keep it, or make a volume under another name";
  if (kind_was != kind_is) {
    refuse("spec.backend", "cannot change: " + kind_was + " -> " + kind_is + advice);
    return problems;
  }
  if (!current.spec.node_name.empty() && !wanted.spec.node_name.empty() &&
      current.spec.node_name != wanted.spec.node_name) {
    refuse("spec.nodeName", "cannot change: " + show(current.spec.node_name) + " -> " +
                                show(wanted.spec.node_name) + ": the data is there" + advice);
  }
  const auto* file_was = std::get_if<FileBackendSpec>(&current.spec.backend);
  const auto* file_is = std::get_if<FileBackendSpec>(&wanted.spec.backend);
  if (file_was == nullptr || file_is == nullptr) return problems;
  if (file_was->pool != file_is->pool) {
    refuse("spec.backend.file.pool",
           "cannot change: " + show(file_was->pool) + " -> " + show(file_is->pool) + advice);
  }
  if (file_was->path != file_is->path) {
    refuse("spec.backend.file.path",
           "cannot change: " + show(file_was->path) + " -> " + show(file_is->path) + advice);
  }
  return problems;
}

Result<Volume> volume_from_json(const nlohmann::json& json) {
  const auto tree = read_json(json);
  if (!tree) return tree.error();
  ProblemList problems("");
  Volume volume = read_volume(**tree, Origin::api, problems);
  if (problems.empty()) return volume;
  const std::string name = read_name(**tree);
  return decode_error(name.empty() ? "volume" : "volume " + name, problems.take());
}

Result<VolumeEvent> event_from_json(const nlohmann::json& json) {
  const auto tree = read_json(json);
  if (!tree) return tree.error();
  ProblemList problems("");
  VolumeEvent event = read_event(**tree, problems);
  if (problems.empty()) return event;
  return decode_error("event", problems.take());
}

}  // namespace ublk_operator

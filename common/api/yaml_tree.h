// YAML text to trees, one a document. The only place that sees yaml-cpp.
// Bounds   limits::manifest_bytes_max, yaml_depth_max, yaml_nodes_max; each is checked before the
//          memory or the time is spent. Aliases count as what they stand for.
// Errors   as text for people; nothing throws.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "common/api/tree.h"

namespace ublk_operator {

struct YamlError {
  Position at;
  std::string message;
  // What was read of the document that holds the error; null when nothing was.
  TreePtr partial;
};

// Calls `on_document` for each document in turn (Tree::Kind::null for an empty one) until it
// returns an error, which then ends the reading, or until the text itself is wrong.
using OnDocument = std::function<std::optional<YamlError>(const TreePtr& document)>;
[[nodiscard]] std::optional<YamlError> read_yaml(std::string_view text,
                                                 const OnDocument& on_document);

}  // namespace ublk_operator

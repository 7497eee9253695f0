// The chart's definitions of our objects, for the tests that hold them against the code.
#pragma once
#include <map>
#include <stdexcept>
#include <string>

#include "common/api/yaml_tree.h"
#include "common/base/files.h"
#include "nlohmann/json.hpp"

namespace ublk_operator::test_definition {

inline nlohmann::json json_of(const Tree& tree) {  // NOLINT(misc-no-recursion)
  using nlohmann::json;
  json value;
  switch (tree.kind) {
    case Tree::Kind::null:
      break;
    case Tree::Kind::scalar:
      // What JSON takes for a number or a boolean is one in YAML too.
      if (!tree.quoted) value = json::parse(tree.text, nullptr, false);
      if (tree.quoted || value.is_discarded()) value = tree.text;
      break;
    case Tree::Kind::array:
      value = json::array();
      for (const auto& item : tree.items) value.push_back(json_of(*item));
      break;
    case Tree::Kind::object:
      value = json::object();
      for (const auto& member : tree.members) value[member.key] = json_of(*member.value);
      break;
  }
  return value;
}

// The schema of the only version in files/crds/`file` of the chart in `source_dir`.
inline nlohmann::json schema(const std::string& source_dir, const std::string& file) {
  const auto text =
      read_file(source_dir + "/charts/ublk-operator/files/crds/" + file, size_t{1} << 20);
  if (!text) throw std::runtime_error(text.error().to_string());
  nlohmann::json definition;
  const auto error = read_yaml(*text, [&](const TreePtr& document) -> std::optional<YamlError> {
    definition = json_of(*document);
    return std::nullopt;
  });
  if (error) throw std::runtime_error(error->message);
  return definition.at("spec").at("versions").at(0).at("schema").at("openAPIV3Schema");
}

using Fields = std::map<std::string, nlohmann::json>;

// Fields without fields of their own: "recovery.backOff.max", "conditions[].type" -> their schema.
inline void add_leaves(const std::string& path,
                       const nlohmann::json& schema,  // NOLINT(misc-no-recursion)
                       Fields& leaves) {
  if (schema.contains("properties")) {
    for (const auto& [name, field] : schema["properties"].items())
      add_leaves(path.empty() ? name : path + "." + name, field, leaves);
  } else if (schema.contains("items")) {
    add_leaves(path + "[]", schema["items"], leaves);
  } else {
    leaves[path] = schema;
  }
}
inline Fields leaves_of(const nlohmann::json& schema) {
  Fields leaves;
  add_leaves("", schema, leaves);
  return leaves;
}

// The same of an object: its leaves, by the same names.
inline void add_values(const std::string& path,
                       const nlohmann::json& value,  // NOLINT(misc-no-recursion)
                       Fields& values) {
  if (value.is_object() && !value.empty()) {
    for (const auto& [name, inner] : value.items())
      add_values(path.empty() ? name : path + "." + name, inner, values);
  } else if (value.is_array()) {
    for (const auto& item : value) add_values(path + "[]", item, values);
  } else {
    values[path] = value;
  }
}
inline Fields values_of(const nlohmann::json& object) {
  Fields values;
  add_values("", object, values);
  return values;
}

// Whether a value is of the type that its schema names.
inline bool is_of_type(const nlohmann::json& value, const nlohmann::json& schema) {
  if (schema.value("x-kubernetes-int-or-string", false))
    return value.is_string() || value.is_number_integer();
  const std::string type = schema.value("type", "");
  return type == "string"    ? value.is_string()
         : type == "integer" ? value.is_number_integer()
         : type == "boolean" ? value.is_boolean()
         : type == "object"  ? value.is_object()
                             : false;
}

}  // namespace ublk_operator::test_definition

#include "common/api/json_tree.h"

#include <algorithm>
#include <cerrno>

#include "common/base/limits.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {
namespace {

// Null when a limit is passed. The recursion is as deep as limits::yaml_depth_max.
TreePtr convert(const nlohmann::json& json, size_t depth,
                size_t& nodes) {  // NOLINT(misc-no-recursion)
  if (depth > limits::yaml_depth_max || ++nodes > limits::yaml_nodes_max) return nullptr;
  auto tree = std::make_shared<Tree>();
  const auto adopt = [&](const TreePtr& child) {
    tree->nodes += child->nodes;
    tree->height = std::max(tree->height, child->height + 1);
  };
  if (json.is_object()) {
    tree->kind = Tree::Kind::object;
    for (const auto& [key, value] : json.items()) {
      TreePtr child = convert(value, depth + 1, nodes);
      if (child == nullptr) return nullptr;
      adopt(child);
      tree->members.push_back({key, {}, std::move(child)});
    }
  } else if (json.is_array()) {
    tree->kind = Tree::Kind::array;
    for (const auto& value : json) {
      TreePtr child = convert(value, depth + 1, nodes);
      if (child == nullptr) return nullptr;
      adopt(child);
      tree->items.push_back(std::move(child));
    }
  } else if (json.is_string()) {
    tree->kind = Tree::Kind::scalar;
    tree->quoted = true;
    tree->text = json.get_ref<const std::string&>();
  } else if (json.is_boolean() || json.is_number()) {
    tree->kind = Tree::Kind::scalar;
    tree->text = json.dump();
  }
  return tree;
}

}  // namespace

Result<TreePtr> read_json(const nlohmann::json& json) {
  size_t nodes = 0;
  TreePtr tree = convert(json, 1, nodes);
  if (tree == nullptr) {
    return Error{E2BIG, "decode", "json",
                 "nested deeper than " + std::to_string(limits::yaml_depth_max) +
                     ", or more than " + std::to_string(limits::yaml_nodes_max) + " values"};
  }
  return tree;
}

}  // namespace ublk_operator

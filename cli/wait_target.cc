#include "cli/wait_target.h"

#include <strings.h>

#include <cerrno>

#include "common/api/decode.h"
#include "common/base/strings.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {
namespace {

const std::vector<std::string>& condition_types() {
  static const std::vector<std::string> types{"Ready",          "InUse",     "NeedsRecreate",
                                              "Recoverable",    "SpecValid", "Paused",
                                              "BackendHealthy", "Bound",     "DeviceRemoved"};
  return types;
}

bool same_word(const std::string& a, const std::string& b) {
  return ::strcasecmp(a.c_str(), b.c_str()) == 0;
}

// The word as it is written in conditions; empty when it is none.
std::string find_word(const std::string& word, const std::vector<std::string>& words) {
  for (const std::string& candidate : words) {
    if (same_word(candidate, word)) return candidate;
  }
  return {};
}

Error not_understood(const std::string& text, const std::string& why) {
  return Error{EINVAL, "wait", "--for=" + text, why};
}

Error no_such(const std::string& text, const char* what, const std::string& word,
              const std::vector<std::string>& words) {
  std::string why = std::string("no ") + what + " '" + word + "'; expected " + join(words, ", ");
  if (const std::string near = nearest(word, words); !near.empty())
    why += " (did you mean '" + near + "'?)";
  return not_understood(text, why);
}

// "{.status.state}", ".status.state", "status.state", "state" -> status, state
std::vector<std::string> parse_path(std::string_view text) {
  if (text.size() >= 2 && text.front() == '{' && text.back() == '}')
    text = text.substr(1, text.size() - 2);
  if (!text.empty() && text.front() == '.') text.remove_prefix(1);
  std::vector<std::string> path;
  for (const std::string_view part : split(text, '.')) {
    if (part.empty()) return {};
    path.emplace_back(part);
  }
  if (path.front() != "spec" && path.front() != "status" && path.front() != "metadata")
    path.insert(path.begin(), "status");
  return path;
}

std::optional<std::string> field_text(const Volume& volume, const std::vector<std::string>& path) {
  const nlohmann::json json = to_json(volume);
  const nlohmann::json* at = &json;
  for (const std::string& part : path) {
    if (!at->is_object() || !at->contains(part)) return std::nullopt;
    at = &at->at(part);
  }
  if (at->is_string()) return at->get<std::string>();
  return at->dump();
}

bool outdated(const Condition& condition, const Volume& volume) {
  return condition.observed_generation != 0 &&
         condition.observed_generation < volume.metadata.generation;
}

}  // namespace

Result<WaitTarget> WaitTarget::parse(const std::string& text) {
  WaitTarget target;
  if (text == "delete") return target;
  const size_t first = text.find('=');
  const std::string head = text.substr(0, first);
  std::string rest = first == std::string::npos ? "" : text.substr(first + 1);

  if (first == std::string::npos || head == "condition") {
    const std::string type = head == "condition" ? rest.substr(0, rest.find('=')) : head;
    const size_t second = rest.find('=');
    const std::string status =
        head == "condition" && second != std::string::npos ? rest.substr(second + 1) : "True";
    target.kind_ = Kind::condition;
    target.condition_ = find_word(type, condition_types());
    if (target.condition_.empty()) return no_such(text, "condition", type, condition_types());
    const std::vector<std::string> statuses{"True", "False", "Unknown"};
    target.value_ = find_word(status, statuses);
    if (target.value_.empty()) return no_such(text, "status", status, statuses);
    return target;
  }
  std::string path = head;
  if (head == "jsonpath") {
    const size_t second = rest.find('=');
    if (second == std::string::npos)
      return not_understood(text, "expected jsonpath={.status.state}=LIVE");
    path = rest.substr(0, second);
    rest = rest.substr(second + 1);
  }
  target.kind_ = Kind::field;
  target.path_ = parse_path(path);
  target.value_ = rest;
  if (target.path_.empty()) {
    return not_understood(
        text, "expected delete, a condition such as Ready, or FIELD=VALUE such as state=LIVE");
  }
  return target;
}

bool WaitTarget::met_by(const std::optional<Volume>& volume) const {
  if (kind_ == Kind::gone) return !volume;
  if (!volume) return false;
  if (kind_ == Kind::field) return field_text(*volume, path_) == value_;
  const Condition* condition = find_condition(volume->status.conditions, condition_);
  return condition != nullptr && !outdated(*condition, *volume) &&
         to_string(condition->status) == value_;
}

std::string WaitTarget::explain(const std::optional<Volume>& volume) const {
  if (!volume) return "there is no such volume";
  if (kind_ == Kind::field) {
    const auto text = field_text(*volume, path_);
    return join(path_, ".") + (text ? " is '" + *text + "'" : " is not set");
  }
  // Why it is still there is said by InUse; everything else by the condition itself.
  const std::string type = kind_ == Kind::gone ? "InUse" : condition_;
  const Condition* condition = find_condition(volume->status.conditions, type);
  if (condition == nullptr)
    return kind_ == Kind::gone ? "it is still there" : "condition " + type + " is not set yet";
  std::string why = type + " is " + to_string(condition->status);
  if (outdated(*condition, *volume)) why += ", of an older spec";
  if (!condition->reason.empty()) why += " (" + condition->reason;
  if (!condition->reason.empty() && !condition->message.empty()) why += ": " + condition->message;
  return condition->reason.empty() ? why : why + ")";
}

}  // namespace ublk_operator

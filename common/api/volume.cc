#include "common/api/volume.h"

#include <algorithm>

namespace ublk_operator {

// No default labels below: a new enumerator must be given its name here, or the build fails.
const char* to_string(RecoveryMode mode) {
  switch (mode) {
    case RecoveryMode::none:
      return "None";
    case RecoveryMode::queue:
      return "Queue";
    case RecoveryMode::reissue:
      return "Reissue";
    case RecoveryMode::fail_io:
      return "FailIO";
  }
  return "";
}

const char* to_string(OnDeadline action) {
  switch (action) {
    case OnDeadline::keep_waiting:
      return "KeepWaiting";
    case OnDeadline::fail_device:
      return "FailDevice";
  }
  return "";
}

const char* to_string(ReclaimPolicy policy) {
  switch (policy) {
    case ReclaimPolicy::retain:
      return "Retain";
    case ReclaimPolicy::remove:
      return "Delete";
  }
  return "";
}

const char* to_string(Provisioning provisioning) {
  switch (provisioning) {
    case Provisioning::thin:
      return "Thin";
    case Provisioning::thick:
      return "Thick";
  }
  return "";
}

const char* to_string(ConditionStatus status) {
  switch (status) {
    case ConditionStatus::yes:
      return "True";
    case ConditionStatus::no:
      return "False";
    case ConditionStatus::unknown:
      return "Unknown";
  }
  return "";
}

const char* backend_kind(const BackendSpec& spec) {
  return std::holds_alternative<FileBackendSpec>(spec) ? "file" : "null";
}

bool set_condition(std::vector<Condition>& conditions, Condition condition,
                   const std::string& now) {
  const auto present =
      std::find_if(conditions.begin(), conditions.end(),
                   [&](const Condition& other) { return other.type == condition.type; });
  if (present == conditions.end()) {
    condition.last_transition_time = now;
    conditions.push_back(std::move(condition));
    return true;
  }
  condition.last_transition_time =
      present->status == condition.status ? present->last_transition_time : now;
  // The time moves only together with the status, so comparing all of it is right.
  if (*present == condition) return false;
  *present = std::move(condition);
  return true;
}

const Condition* find_condition(const std::vector<Condition>& conditions, const std::string& type) {
  const auto found =
      std::find_if(conditions.begin(), conditions.end(),
                   [&](const Condition& condition) { return condition.type == type; });
  return found == conditions.end() ? nullptr : &*found;
}

}  // namespace ublk_operator

#include "common/kube/lease.h"

#include <algorithm>
#include <cerrno>

#include "common/api/quantity.h"

namespace ublk_operator::kube {

namespace {

using std::chrono::milliseconds;

std::string text(const nlohmann::json& object, const char* field) {
  const auto at = object.find(field);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

int64_t number(const nlohmann::json& object, const char* field) {
  const auto at = object.find(field);
  return at != object.end() && at->is_number_integer() ? at->get<int64_t>() : 0;
}

std::string version_of(const nlohmann::json& object) {
  const auto metadata = object.find("metadata");
  return metadata != object.end() && metadata->is_object() ? text(*metadata, "resourceVersion")
                                                           : std::string();
}

milliseconds part_of(std::chrono::seconds time, double share) {
  return std::chrono::duration_cast<milliseconds>(time * share);
}

}  // namespace

Resource lease_resource(const std::string& namespace_name) {
  return {"coordination.k8s.io", "v1", "leases", namespace_name};
}

LeaseSpec read_lease(const nlohmann::json& object) {
  LeaseSpec spec;
  const auto at = object.is_object() ? object.find("spec") : object.end();
  if (!object.is_object() || at == object.end() || !at->is_object()) return spec;
  spec.holder = text(*at, "holderIdentity");
  spec.duration = std::chrono::seconds(number(*at, "leaseDurationSeconds"));
  spec.renew_time = text(*at, "renewTime");
  spec.transitions = number(*at, "leaseTransitions");
  return spec;
}

LeaderElection::Step LeaderElection::next(Time now, WallTime wall, double random) {
  if (leading_ && !leads(now))
    lose("the lease could not be renewed for " + std::to_string(options_.renew_deadline.count()) +
         " s");
  if (lost_) return Lost{*lost_};
  if (now < not_before_)
    return Wait{leading_ ? std::min(not_before_, renewed_at_ + options_.renew_deadline)
                         : not_before_};
  if (!known_) return Look{};
  if (leading_ || object_.is_null() || spec_.holder.empty() || spec_.holder == options_.identity)
    return write(wall);
  // Those who wait for the same lease try one after the other.
  const Time free = changed_at_ + spec_.duration + part_of(options_.retry, random / 2);
  if (now < changed_at_ + spec_.duration) return Wait{free};
  return write(wall);
}

LeaderElection::Write LeaderElection::write(WallTime wall) const {
  const std::string now = format_time_micro(wall);
  Write step{object_.is_null(), object_};
  if (step.create) {
    step.lease = {{"apiVersion", "coordination.k8s.io/v1"},
                  {"kind", "Lease"},
                  {"metadata", {{"name", options_.name}, {"namespace", options_.namespace_name}}}};
  }
  auto& spec = step.lease["spec"];
  if (!spec.is_object()) spec = nlohmann::json::object();
  if (spec_.holder != options_.identity) {
    spec["acquireTime"] = now;
    spec["leaseTransitions"] = step.create ? 0 : spec_.transitions + 1;
  }
  spec["holderIdentity"] = options_.identity;
  spec["leaseDurationSeconds"] = options_.lease.count();
  spec["renewTime"] = now;
  return step;
}

void LeaderElection::know(const nlohmann::json* lease, Time now) {
  const bool same = known_ && (lease == nullptr ? object_.is_null()
                                                : !object_.is_null() &&
                                                      version_of(*lease) == version_of(object_));
  known_ = true;
  if (same) return;
  object_ = lease == nullptr ? nlohmann::json() : *lease;
  spec_ = read_lease(object_);
  changed_at_ = now;
}

void LeaderElection::observed(const nlohmann::json* lease, Time now) {
  // The leader knows better: its own writes come back to it late.
  if (leading_ || lost_) return;
  know(lease, now);
}

// A call that failed late was the wait: the connection was silent, and the next is a new one.
LeaderElection::Time LeaderElection::next_try(Time begun, Time now) const {
  return std::max(begun + options_.retry, now + part_of(options_.retry, 0.1));
}

void LeaderElection::looked(const Result<nlohmann::json>& lease, Time begun, Time now) {
  if (!lease && lease.err() != ENOENT) {
    not_before_ = next_try(begun, now);
    return;
  }
  know(lease ? &*lease : nullptr, now);
  if (leading_ && !object_.is_null() && spec_.holder != options_.identity)
    lose("the lease is held by \"" + spec_.holder + "\"");
}

void LeaderElection::written(const Result<nlohmann::json>& lease, Time begun, Time now) {
  if (lease) {
    know(&*lease, now);
    leading_ = !lost_;
    renewed_at_ = begun;
    not_before_ = begun + options_.retry;
    return;
  }
  switch (lease.err()) {
    case EBUSY:   // changed meanwhile
    case EEXIST:  // made meanwhile
    case ENOENT:  // deleted meanwhile
      known_ = false;
      // At once, because a leader has little time, but not in a row.
      not_before_ = now + part_of(options_.retry, 0.1);
      break;
    default:
      not_before_ = next_try(begun, now);
  }
}

bool LeaderElection::leads(Time now) const {
  return leading_ && now < renewed_at_ + options_.renew_deadline;
}

void LeaderElection::lose(std::string why) {
  leading_ = false;
  if (!lost_) lost_ = std::move(why);
}

std::optional<nlohmann::json> LeaderElection::release(WallTime wall) const {
  if (!leading_ || object_.is_null()) return std::nullopt;
  nlohmann::json lease = object_;
  lease["spec"]["holderIdentity"] = "";
  lease["spec"]["leaseDurationSeconds"] = 1;
  lease["spec"]["renewTime"] = format_time_micro(wall);
  return lease;
}

}  // namespace ublk_operator::kube

// Lease (coordination.k8s.io/v1), and the election of a leader by one.
// Shape    LeaderElection is a state machine without I/O and without a clock: next() says the one
//          step to take, its outcome is told by the method named after it. Who does not lead learns
//          of the lease by a watch (observed()); it asks the server only at its start and after a
//          write that lost a race.
// Safety   a lease is judged by this process's own clock: by how long ago it was last seen to
//          change, never by the times written in it. Every write carries the resource version it
//          rests on, so an observation that is out of date loses nothing but the race. leads() ends
//          `renew_deadline` after the last renewal was begun, long before another may take over
//          (`lease`), and it never comes back: the process is to exit.
// Threads  one.
// Source   client-go, tools/leaderelection.
#pragma once
#include <chrono>
#include <optional>
#include <string>
#include <variant>

#include "common/base/result.h"
#include "common/kube/client.h"

namespace ublk_operator::kube {

[[nodiscard]] Resource lease_resource(const std::string& namespace_name);

struct LeaseSpec {
  std::string holder;  // empty: released
  std::chrono::seconds duration{0};
  std::string renew_time;  // RFC 3339 with microseconds, by the holder's clock
  int64_t transitions = 0;
  friend bool operator==(const LeaseSpec&, const LeaseSpec&) = default;
};
// What is missing or of another type is as above.
[[nodiscard]] LeaseSpec read_lease(const nlohmann::json& object);

class LeaderElection {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using WallTime = std::chrono::system_clock::time_point;
  struct Options {
    std::string namespace_name;
    std::string name;
    std::string identity;  // of this process; a pod's name
    std::chrono::seconds lease{15};
    std::chrono::seconds renew_deadline{10};
    std::chrono::seconds retry{2};
  };
  struct Look {};  // GET
  struct Write {   // POST or PUT
    bool create = false;
    nlohmann::json lease;
  };
  struct Wait {
    Time until{};  // or until something is observed
  };
  struct Lost {
    std::string why;
  };
  using Step = std::variant<Look, Write, Wait, Lost>;

  explicit LeaderElection(Options options) : options_(std::move(options)) {}

  // `random`: 0 to 1, for jitter.
  [[nodiscard]] Step next(Time now, WallTime wall, double random);
  // By a watch; nullptr: there is none.
  void observed(const nlohmann::json* lease, Time now);
  // `begun`: when it was asked, and when the write was sent: the lease counts from there.
  void looked(const Result<nlohmann::json>& lease, Time begun, Time now);
  void written(const Result<nlohmann::json>& lease, Time begun, Time now);

  [[nodiscard]] bool leads(Time now) const;
  [[nodiscard]] const std::string& holder() const { return spec_.holder; }
  // What to PUT so that another need not wait; nothing when this one does not lead.
  [[nodiscard]] std::optional<nlohmann::json> release(WallTime wall) const;

 private:
  [[nodiscard]] Write write(WallTime wall) const;
  void know(const nlohmann::json* lease, Time now);
  [[nodiscard]] Time next_try(Time begun, Time now) const;
  void lose(std::string why);

  const Options options_;
  bool known_ = false;     // what follows is what the server has, as far as is known
  nlohmann::json object_;  // null: there is none
  LeaseSpec spec_;
  Time changed_at_{};  // since when the lease is seen to be as it is
  Time not_before_{};  // of the next call, after one that failed, or of the next renewal
  bool leading_ = false;
  Time renewed_at_{};
  std::optional<std::string> lost_;
};

}  // namespace ublk_operator::kube

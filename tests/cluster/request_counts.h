// RequestCounts: what an API server was asked for, by its own metric apiserver_request_total, so
// that a test can say what came in between two moments. A watch is counted when it ends.
// Source   Kubernetes metrics reference, apiserver_request_total; a server-side apply has the verb
//          APPLY.
#pragma once
#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace ublk_operator::cluster {

struct RequestKind {
  std::string verb;      // GET, LIST, WATCH, POST, PUT, PATCH, APPLY, DELETE
  std::string resource;  // "ublkvolumes.ublk.dev/status", "events"; empty: no resource
  auto operator<=>(const RequestKind&) const = default;
};

using RequestCounts = std::map<RequestKind, uint64_t>;

// Of a page in Prometheus's text format; whatever else it holds is passed over.
[[nodiscard]] RequestCounts parse_request_counts(std::string_view page);
// What is more in `after`.
[[nodiscard]] RequestCounts growth(const RequestCounts& before, const RequestCounts& after);
// A line each.
[[nodiscard]] std::string to_string(const RequestCounts& counts);

}  // namespace ublk_operator::cluster

#include "tests/cluster/request_counts.h"

#include <charconv>
#include <cmath>

#include "common/base/strings.h"

namespace ublk_operator::cluster {

namespace {

// The value of label `name` in `labels` (`a="x",b="y"`); none of those asked for holds a quote.
std::string label(std::string_view labels, const std::string& name) {
  const std::string key = name + "=\"";
  for (size_t at = labels.find(key); at != std::string_view::npos; at = labels.find(key, at + 1)) {
    if (at != 0 && labels[at - 1] != ',') continue;
    const auto value = labels.substr(at + key.size());
    return std::string(value.substr(0, value.find('"')));
  }
  return "";
}

}  // namespace

RequestCounts parse_request_counts(std::string_view page) {
  constexpr std::string_view metric = "apiserver_request_total{";
  RequestCounts counts;
  for (const auto line : split(page, '\n')) {
    const size_t end = line.rfind("} ");
    if (!line.starts_with(metric) || end == std::string_view::npos) continue;
    const auto labels = line.substr(metric.size(), end - metric.size());
    const auto number = line.substr(end + 2);
    double value = 0;
    if (std::from_chars(number.data(), number.data() + number.size(), value).ec != std::errc())
      continue;
    RequestKind kind{label(labels, "verb"), label(labels, "resource")};
    if (const auto group = label(labels, "group"); !group.empty()) kind.resource += "." + group;
    if (const auto part = label(labels, "subresource"); !part.empty()) kind.resource += "/" + part;
    counts[kind] += static_cast<uint64_t>(std::llround(value));
  }
  return counts;
}

RequestCounts growth(const RequestCounts& before, const RequestCounts& after) {
  RequestCounts more;
  for (const auto& [kind, count] : after) {
    const auto known = before.find(kind);
    const uint64_t was = known == before.end() ? 0 : known->second;
    if (count > was) more[kind] = count - was;
  }
  return more;
}

std::string to_string(const RequestCounts& counts) {
  std::string text;
  for (const auto& [kind, count] : counts)
    text += "  " + std::to_string(count) + " " + kind.verb + " " +
            (kind.resource.empty() ? "(no resource)" : kind.resource) + "\n";
  return text;
}

}  // namespace ublk_operator::cluster

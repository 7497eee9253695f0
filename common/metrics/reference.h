// For tests: what a program exports, beside what docs/reference/metrics.md says of it.
// Shape    families by name, each as its type and labels in order: {"ublk_volume_io_total",
//          "counter operation volume"}.
// Errors   a page that cannot be read has no families.
// Source   Prometheus, "Exposition formats" (text, 0.0.4).
#pragma once
#include <map>
#include <string>
#include <vector>

namespace ublk_operator::metrics {

using FamilyShapes = std::map<std::string, std::string>;

// Of Registry::text(); every family that has a series. What a histogram adds is no label.
[[nodiscard]] FamilyShapes exported_families(const std::string& text);
// The rows of the page whose names begin with one of these.
[[nodiscard]] FamilyShapes documented_families(const std::vector<std::string>& prefixes);

}  // namespace ublk_operator::metrics

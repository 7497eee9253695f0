// Kubernetes quantities and Go durations, as far as volumes need them.
// Source   k8s.io/apimachinery/pkg/api/resource/quantity.go: decimal number, then one of "", Ki Mi
//          Gi Ti Pi Ei, k M G T P E, or an exponent. Only whole numbers of bytes are accepted.
// Errors   the detail is the rest of a sentence that begins with the text: "has no unit; ...".
#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/result.h"

namespace ublk_operator {

// "10Gi" -> bytes. EINVAL with what was wrong (negative, fraction of a byte, suffix), ERANGE beyond
// 2^63-1.
[[nodiscard]] Result<uint64_t> parse_quantity(std::string_view text);
// The shortest exact form: "10Gi", "1536Mi", "4Ki", "513" for what no suffix fits.
[[nodiscard]] std::string format_quantity(uint64_t bytes);

// "1m30s", "500ms", "2h" -> milliseconds; "0" is allowed, a bare number is not. EINVAL, ERANGE
// beyond 24 days.
[[nodiscard]] Result<std::chrono::milliseconds> parse_duration(std::string_view text);
[[nodiscard]] std::string format_duration(std::chrono::milliseconds duration);
// The same with microseconds, for what was measured ("41.234ms", "834us").
[[nodiscard]] Result<std::chrono::microseconds> parse_duration_micro(std::string_view text);
[[nodiscard]] std::string format_duration_micro(std::chrono::microseconds duration);

// RFC 3339 in UTC with whole seconds (metav1.Time); format_time_micro has microseconds
// (metav1.MicroTime).
[[nodiscard]] std::string format_time(std::chrono::system_clock::time_point time);
[[nodiscard]] inline std::string format_now() {
  return format_time(std::chrono::system_clock::now());
}
[[nodiscard]] std::string format_time_micro(std::chrono::system_clock::time_point time);

}  // namespace ublk_operator

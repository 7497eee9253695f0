// Reading a backend's config.
#pragma once
#include <cstdint>
#include <optional>

#include "nlohmann/json.hpp"

namespace ublk_operator {

// A JSON number that is a whole one and not negative: from text it is unsigned, from C++ code it
// may be a signed one.
[[nodiscard]] inline std::optional<uint64_t> as_unsigned(const nlohmann::json& json) {
  if (json.is_number_unsigned()) return json.get<uint64_t>();
  if (json.is_number_integer() && json.get<int64_t>() >= 0)
    return static_cast<uint64_t>(json.get<int64_t>());
  return std::nullopt;
}

}  // namespace ublk_operator

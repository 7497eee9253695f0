// Reading fields of messages without exceptions: the other side may be another version, or broken.
#pragma once
#include <cerrno>
#include <concepts>
#include <cstdint>
#include <string>
#include <utility>

#include "common/base/result.h"
#include "nlohmann/json.hpp"

namespace ublk_operator::wire {

inline Error bad_field(const nlohmann::json& json, const char* key, const char* expected) {
  return Error{EPROTO, "parse", std::string("field '") + key + "'",
               std::string("expected ") + expected + " in " +
                   json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)};
}

// The message's "type"; empty when it has none.
inline std::string type_of(const nlohmann::json& json) {
  const auto it = json.find("type");
  return it != json.end() && it->is_string() ? it->get<std::string>() : std::string();
}

inline Result<std::string> text_field(const nlohmann::json& json, const char* key) {
  const auto it = json.find(key);
  if (it == json.end() || !it->is_string()) return bad_field(json, key, "a string");
  return it->get<std::string>();
}

// An integer that fits T; a negative number never becomes a large one.
template <std::integral T>
Result<T> number_field(const nlohmann::json& json, const char* key) {
  const auto it = json.find(key);
  if (it != json.end() && it->is_number_unsigned()) {
    const auto value = it->get<uint64_t>();
    if (std::in_range<T>(value)) return static_cast<T>(value);
  } else if (it != json.end() && it->is_number_integer()) {
    const auto value = it->get<int64_t>();
    if (std::in_range<T>(value)) return static_cast<T>(value);
  }
  return bad_field(json, key, "an integer in range");
}

inline nlohmann::json error_to_json(const Error& error) {
  return {{"type", "error"},
          {"errno", error.err},
          {"operation", error.operation},
          {"object", error.object},
          {"detail", error.detail}};
}

// What is missing stays empty: an error about an error helps nobody.
inline Error error_from_json(const nlohmann::json& json) {
  const auto text = [&](const char* key) {
    auto value = text_field(json, key);
    return value ? std::move(value).value() : std::string();
  };
  auto err = number_field<int>(json, "errno");
  return Error{err && *err > 0 ? *err : EPROTO, text("operation"), text("object"), text("detail")};
}

}  // namespace ublk_operator::wire

#include "common/localapi/protocol.h"

#include <algorithm>
#include <cerrno>

#include "common/base/limits.h"

namespace ublk_operator {
namespace {

// Counted before parsing: a line of 16 MiB of '[' would otherwise become as many nested values.
size_t nesting_depth(std::string_view text) {
  size_t depth = 0;
  size_t deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      deepest = std::max(deepest, ++depth);
    } else if ((c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return deepest;
}

std::string text_field(const nlohmann::json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : std::string();
}

}  // namespace

Result<nlohmann::json> parse_message(std::string_view line) {
  if (nesting_depth(line) > limits::local_api_depth_max) {
    return Error{EPROTO, "parse_message", "local API",
                 "the message is nested deeper than " +
                     std::to_string(limits::local_api_depth_max) + " levels"};
  }
  auto json = nlohmann::json::parse(line.begin(), line.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded())
    return Error{EPROTO, "parse_message", "local API", "the line is not JSON"};
  if (!json.is_object())
    return Error{EPROTO, "parse_message", "local API", "the line is not a JSON object"};
  return json;
}

std::string format_message(const nlohmann::json& message) {
  return message.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

nlohmann::json error_to_json(const Error& error) {
  return {{"errno", error.err},
          {"name", errno_name(error.err)},
          {"operation", error.operation},
          {"object", error.object},
          {"detail", error.detail}};
}

Error error_from_json(const nlohmann::json& json) {
  if (!json.is_object()) return Error{EPROTO, "call", "local API", "the error is not an object"};
  const auto number = json.find("errno");
  const bool valid = number != json.end() && number->is_number_integer() &&
                     number->get<int64_t>() > 0 && number->get<int64_t>() < 4096;
  return Error{valid ? number->get<int>() : EPROTO, text_field(json, "operation"),
               text_field(json, "object"), text_field(json, "detail")};
}

}  // namespace ublk_operator

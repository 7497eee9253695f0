// The kinds of backend, as a visible list: a new kind is a room beside these and a line here.
#include <string>

#include "nlohmann/json.hpp"
#include "node/backends/backend.h"
#include "node/backends/config.h"
#include "node/backends/delay/delay_backend.h"
#include "node/backends/file/file_backend.h"
#include "node/backends/null/null_backend.h"

namespace ublk_operator {
namespace {

Result<std::unique_ptr<Backend>> make_kind(const std::string& kind, const nlohmann::json& config,
                                           std::vector<UniqueFd> fds) {
  if (kind == "null") return make_null_backend();
  if (kind == "file") return make_file_backend(config, std::move(fds));
  return Error{EINVAL, "open_backend", kind,
               "unknown kind of backend: this server knows null and file"};
}

}  // namespace

const char* to_string(IoOp op) {
  switch (op) {
    case IoOp::read:
      return "read";
    case IoOp::write:
      return "write";
    case IoOp::flush:
      return "flush";
    case IoOp::discard:
      return "discard";
    case IoOp::write_zeroes:
      return "write_zeroes";
  }
  panic("no such operation", __FILE__, __LINE__);
}

Result<std::unique_ptr<Backend>> make_backend(const nlohmann::json& config,
                                              std::vector<UniqueFd> fds) {
  const auto wrong = [](const char* detail) {
    return Error{EINVAL, "open_backend", "backend", detail};
  };
  if (!config.is_object()) return wrong("backend config must be an object");
  const auto kind = config.find("kind");
  if (kind == config.end() || !kind->is_string()) return wrong("backend config needs a kind");
  uint64_t latency_ns = 0;
  if (const auto latency = config.find("latency_ns"); latency != config.end()) {
    const auto nanoseconds = as_unsigned(*latency);
    if (!nanoseconds) return wrong("latency_ns must be a number of nanoseconds");
    latency_ns = *nanoseconds;
  }
  auto made = make_kind(kind->get<std::string>(), config, std::move(fds));
  if (!made || latency_ns == 0) return made;
  return make_delay_backend(std::move(made).value(), latency_ns);
}

}  // namespace ublk_operator

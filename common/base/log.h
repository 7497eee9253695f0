// Logging: spdlog, passed in, never a global. One key=value line a state change, always with
// volume= (and device= where there is one). info: state changed; warn: will retry; error: a person
// is needed.
#pragma once
#include <memory>
#include <string>

#include "common/base/result.h"
#include "spdlog/logger.h"

namespace ublk_operator {

using Logger = std::shared_ptr<spdlog::logger>;

// Logs to standard error. `level`: "debug", "info", "warn", "error"; EINVAL otherwise. Under
// systemd (JOURNAL_STREAM is set) lines carry the journal's priority prefix instead of a time.
[[nodiscard]] Result<Logger> make_logger(const std::string& program, const std::string& level);

// Drops everything: for tests.
[[nodiscard]] Logger null_logger();

}  // namespace ublk_operator

// Logging: spdlog, passed in, never a global. One key=value line a state change, always with
// volume= (and device= where there is one). info: state changed; warn: will retry; error: a person
// is needed.
#pragma once
#include <fmt/core.h>

#include <memory>
#include <string>

#include "common/base/result.h"

namespace spdlog {
class logger;
}

namespace ublk_operator {

// Lines in fmt's syntax, checked when compiled and formatted in one place: spdlog's own templates
// put fmt whole into each file that logs, which was a third of the time that building took.
// Threads  any.
class Log {
 public:
  explicit Log(std::shared_ptr<spdlog::logger> to) : to_(std::move(to)) {}

  template <typename... T>
  void debug(fmt::format_string<T...> format, T&&... values) {
    write(Level::debug, format, fmt::make_format_args(values...));
  }
  template <typename... T>
  void info(fmt::format_string<T...> format, T&&... values) {
    write(Level::info, format, fmt::make_format_args(values...));
  }
  template <typename... T>
  void warn(fmt::format_string<T...> format, T&&... values) {
    write(Level::warn, format, fmt::make_format_args(values...));
  }
  template <typename... T>
  void error(fmt::format_string<T...> format, T&&... values) {
    write(Level::error, format, fmt::make_format_args(values...));
  }

 private:
  enum class Level { debug, info, warn, error };
  void write(Level level, fmt::string_view format, fmt::format_args values);

  const std::shared_ptr<spdlog::logger> to_;
};
using Logger = std::shared_ptr<Log>;

// Logs to standard error. `level`: "debug", "info", "warn", "error"; EINVAL otherwise. Under
// systemd (JOURNAL_STREAM is set) lines carry the journal's priority prefix instead of a time.
[[nodiscard]] Result<Logger> make_logger(const std::string& program, const std::string& level);

// Drops everything: for tests.
[[nodiscard]] Logger null_logger();

}  // namespace ublk_operator

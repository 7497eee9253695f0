#include "common/base/log.h"

#include <cerrno>
#include <cstdlib>

#include "spdlog/pattern_formatter.h"
#include "spdlog/sinks/null_sink.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace ublk_operator {

namespace {
// sd-daemon(3): "<4>" and so on in front of a line sets its priority in the journal.
class JournalPriority : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& msg, const std::tm& /*time*/,
              spdlog::memory_buf_t& dest) override {
    const char* prefix = "<6>";
    if (msg.level >= spdlog::level::err)
      prefix = "<3>";
    else if (msg.level == spdlog::level::warn)
      prefix = "<4>";
    else if (msg.level <= spdlog::level::debug)
      prefix = "<7>";
    dest.append(prefix, prefix + 3);
  }
  [[nodiscard]] std::unique_ptr<custom_flag_formatter> clone() const override {
    return std::make_unique<JournalPriority>();
  }
};

spdlog::level::level_enum wanted_level(const std::string& name) {
  if (name == "debug") return spdlog::level::debug;
  if (name == "info") return spdlog::level::info;
  if (name == "warn") return spdlog::level::warn;
  if (name == "error") return spdlog::level::err;
  return spdlog::level::off;
}
}  // namespace

void Log::write(Level level, fmt::string_view format, fmt::format_args values) {
  static constexpr spdlog::level::level_enum levels[] = {spdlog::level::debug, spdlog::level::info,
                                                         spdlog::level::warn, spdlog::level::err};
  const auto spdlog_level = levels[static_cast<size_t>(level)];
  if (to_->should_log(spdlog_level)) to_->log(spdlog_level, fmt::vformat(format, values));
}

Result<Logger> make_logger(const std::string& program, const std::string& level) {
  const auto wanted = wanted_level(level);
  if (wanted == spdlog::level::off)
    return Error{EINVAL, "parse", "log level '" + level + "'",
                 "expected debug, info, warn or error"};
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  auto logger = std::make_shared<spdlog::logger>(program, std::move(sink));
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  if (std::getenv("JOURNAL_STREAM") != nullptr)  // NOLINT(concurrency-mt-unsafe): before any thread
    formatter->add_flag<JournalPriority>('*').set_pattern("%*%v");
  else
    formatter->set_pattern("%Y-%m-%dT%H:%M:%S.%e %l %n %v");
  logger->set_formatter(std::move(formatter));
  logger->set_level(wanted);
  logger->flush_on(spdlog::level::info);
  return std::make_shared<Log>(std::move(logger));
}

Logger null_logger() {
  return std::make_shared<Log>(
      std::make_shared<spdlog::logger>("null", std::make_shared<spdlog::sinks::null_sink_mt>()));
}

}  // namespace ublk_operator

#include "cli/local_facts.h"

#include <sys/klog.h>
#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <vector>

#include "common/base/error.h"
#include "common/base/strings.h"

namespace ublk_operator {
namespace {

using Json = nlohmann::json;

Json uname_facts() {
  utsname name{};
  if (::uname(&name) != 0) return Json{{"error", errno_error("uname", "").to_string()}};
  return {{"sysname", name.sysname},
          {"nodename", name.nodename},
          {"release", name.release},
          {"version", name.version},
          {"machine", name.machine}};
}

Json ublk_char_listing() {
  const char* folder = "/sys/class/ublk-char";
  std::vector<std::string> names;
  std::error_code error;
  std::filesystem::directory_iterator entry(folder, error);
  for (; !error && entry != std::filesystem::directory_iterator(); entry.increment(error))
    names.push_back(entry->path().filename().string());
  if (error) {
    return Json{{"error", Error{error.value(), "read", folder, ""}.to_string()}};
  }
  std::sort(names.begin(), names.end());
  return names;
}

Json kernel_log() {
  // linux/syslog.h has no userspace header for these in all distributions.
  constexpr int syslog_action_read_all = 3;
  constexpr int syslog_action_size_buffer = 10;
  constexpr size_t lines_max = 200;
  const int size = ::klogctl(syslog_action_size_buffer, nullptr, 0);
  if (size <= 0) return Json{{"error", errno_error("klogctl", "kernel log").to_string()}};
  std::string log(static_cast<size_t>(size), '\0');
  const int read = ::klogctl(syslog_action_read_all, log.data(), size);
  if (read < 0) {
    return Json{
        {"error", errno_error("klogctl", "kernel log", "run as root to include it").to_string()}};
  }
  log.resize(static_cast<size_t>(read));
  return ublk_lines(log, lines_max);
}

bool sounds_secret(std::string key) {
  std::transform(key.begin(), key.end(), key.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  constexpr std::array<std::string_view, 6> words{"password", "passphrase", "secret",
                                                  "token",    "credential", "privatekey"};
  return std::any_of(words.begin(), words.end(),
                     [&](std::string_view word) { return key.find(word) != std::string::npos; });
}

}  // namespace

Json ublk_lines(const std::string& log, size_t lines_max) {
  std::vector<std::string> lines;
  for (std::string_view line : split(log, '\n')) {
    if (line.find("ublk") == std::string_view::npos) continue;
    if (line.front() == '<') line.remove_prefix(line.find('>') + 1);
    lines.emplace_back(line);
  }
  if (lines.size() > lines_max)
    lines.erase(lines.begin(), lines.end() - static_cast<ptrdiff_t>(lines_max));
  return lines;
}

void remove_secrets(Json& json) {
  if (json.is_object()) {
    for (auto& [key, value] : json.items()) {
      if (sounds_secret(key)) {
        value = "(removed)";
      } else {
        remove_secrets(value);
      }
    }
  } else if (json.is_array()) {
    for (Json& item : json) remove_secrets(item);
  }
}

Json local_facts(const std::vector<PreflightCheck>& checks) {
  return {{"uname", uname_facts()},
          {"ublkChar", ublk_char_listing()},
          {"dmesg", kernel_log()},
          {"preflight", to_json(checks)}};
}

}  // namespace ublk_operator

#include "common/metrics/reference.h"

#include <algorithm>
#include <regex>
#include <set>
#include <sstream>
#include <string_view>

#include "common/base/files.h"

namespace ublk_operator::metrics {

namespace {

std::string shape(const std::string& type, const std::set<std::string>& labels) {
  std::string text = type;
  for (const auto& label : labels) text += " " + label;
  return text;
}

// All that the expression's first group finds.
std::set<std::string> all_of(const std::string& text, const std::regex& expression) {
  std::set<std::string> found;
  for (std::sregex_iterator it(text.begin(), text.end(), expression), end; it != end; ++it)
    found.insert((*it)[1]);
  return found;
}

}  // namespace

FamilyShapes exported_families(const std::string& text) {
  static const std::regex type_line("# TYPE (\\w+) (\\w+)");
  static const std::regex label("[{,](\\w+)=\"");
  FamilyShapes families;
  std::istringstream lines(text);
  std::string name;
  std::string type;
  std::set<std::string> labels;
  const auto end_family = [&] {
    if (!name.empty()) families[name] = shape(type, labels);
    labels.clear();
  };
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (std::regex_match(line, match, type_line)) {
      end_family();
      name = match[1];
      type = match[2];
    } else if (!line.starts_with('#')) {
      labels.merge(all_of(line, label));
      labels.erase("le");
    }
  }
  end_family();
  return families;
}

FamilyShapes documented_families(const std::vector<std::string>& prefixes) {
  static const std::regex row("\\| `(ublk_\\w+)` \\| (\\w+) \\|([^|]*)\\|.*");
  static const std::regex label("`(\\w+)`");
  const auto page =
      read_file(std::string(UBLK_SOURCE_DIR) + "/docs/reference/metrics.md", size_t{1} << 20);
  FamilyShapes families;
  std::istringstream lines(page ? *page : "");
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (!std::regex_match(line, match, row)) continue;
    const std::string name = match[1];
    if (std::any_of(prefixes.begin(), prefixes.end(),
                    [&](const auto& prefix) { return name.starts_with(prefix); }))
      families[name] = shape(match[2], all_of(match[3], label));
  }
  return families;
}

}  // namespace ublk_operator::metrics

#include "node/agent/manifest_request.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "common/api/decode.h"
#include "common/base/strings.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {

namespace {

// The mark before a document of a YAML stream stands at a line's beginning, with or without content
// behind it; anywhere else it is text (YAML 1.2.2, 9.1.2).
bool is_separator(std::string_view line) {
  return line.starts_with("---") && (line.size() == 3 || std::strchr(" \t\r", line[3]) != nullptr);
}

// Where the document whose content begins in line `content` begins: at its mark, if it has one
// behind line `before`, where the content of the one before it begins.
size_t first_line(const std::vector<std::string_view>& lines, size_t content, size_t before) {
  for (size_t line = content; line > before; --line)
    if (is_separator(lines[line])) return line;
  return content;
}

// A stream may separate its documents in ways that leave no clean cut between two lines: what was
// cut out counts only if it says the same.
bool says(const std::string& text, const nlohmann::json& volume) {
  const auto decoded = decode_manifest(text, "");
  return decoded.ok() && decoded.documents.size() == 1 &&
         to_json(*decoded.documents[0].volume) == volume;
}

}  // namespace

Result<std::vector<RequestedManifest>> read_request(const std::string& request) {
  const auto decoded = decode_manifest(request, "(request)");
  std::vector<Problem> problems = decoded.problems;
  for (const auto& document : decoded.documents)
    problems.insert(problems.end(), document.problems.begin(), document.problems.end());
  if (!problems.empty()) {
    std::vector<std::string> told;
    for (const auto& problem : problems) told.push_back(problem.to_string());
    return Error{EINVAL, "apply", "manifest", join(told, "\n")};
  }
  if (decoded.documents.size() == 1)
    return std::vector{RequestedManifest{decoded.documents[0].name, request}};

  std::vector<std::string_view> lines = split(request, '\n');
  if (request.ends_with('\n')) lines.pop_back();
  std::vector<size_t> first{0};
  size_t before = 0;
  for (const auto& document : decoded.documents) {
    const auto content = static_cast<size_t>(std::max(document.line, 1) - 1);
    if (&document != &decoded.documents.front())
      first.push_back(first_line(lines, content, before));
    before = content;
  }
  first.push_back(lines.size());
  std::vector<RequestedManifest> manifests;
  for (size_t i = 0; i < decoded.documents.size(); ++i) {
    const auto& document = decoded.documents[i];
    std::string text;
    for (size_t line = first[i]; line < first[i + 1]; ++line)
      text += std::string(lines[line]) + "\n";
    const nlohmann::json volume = to_json(*document.volume);
    if (!says(text, volume)) text = to_yaml(volume);
    manifests.push_back({document.name, std::move(text)});
  }
  return manifests;
}

}  // namespace ublk_operator

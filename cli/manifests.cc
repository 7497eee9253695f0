#include "cli/manifests.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <iterator>
#include <map>
#include <system_error>
#include <utility>

#include "common/base/files.h"
#include "common/base/limits.h"

namespace ublk_operator {
namespace {

namespace fs = std::filesystem;

// A file that cannot be read is a wrong argument: ENOENT is for volumes.
Error wrong_file(Error error) {
  if (error.err != EFBIG) {
    error.detail = errno_name(error.err) + (error.detail.empty() ? "" : ": " + error.detail) +
                   "; name a readable file, a folder or '-'";
    error.err = EINVAL;
  }
  return error;
}

Result<std::string> read_input(std::istream& in) {
  std::string text;
  std::string piece(64 << 10, '\0');
  while (in.read(piece.data(), static_cast<std::streamsize>(piece.size())) || in.gcount() > 0) {
    text.append(piece.data(), static_cast<size_t>(in.gcount()));
    if (text.size() > limits::manifest_bytes_max) {
      return Error{
          EFBIG, "read", "stdin",
          "more than " + std::to_string(limits::manifest_bytes_max) + " bytes; split the manifest"};
    }
  }
  return text;
}

Result<std::vector<std::string>> files_of_folder(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  fs::directory_iterator entry(folder, error);
  for (; !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const fs::path& path = entry->path();
    const std::string extension = path.extension().string();
    std::error_code ignored;
    if (path.filename().string().front() != '.' && entry->is_regular_file(ignored) &&
        (extension == ".yaml" || extension == ".yml" || extension == ".json"))
      paths.push_back(path.string());
  }
  if (error) return wrong_file(Error{error.value(), "read", folder, error.message()});
  if (paths.empty())
    return Error{EINVAL, "read", folder, "the folder holds no *.yaml, *.yml or *.json"};
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

Result<std::vector<ManifestFile>> read_manifests(const std::vector<std::string>& paths,
                                                 std::istream& in) {
  std::vector<std::string> flat;
  for (const std::string& path : paths) {
    std::error_code ignored;
    if (path == "-" || !fs::is_directory(path, ignored)) {
      flat.push_back(path);
      continue;
    }
    auto inside = files_of_folder(path);
    if (!inside) return inside.error();
    flat.insert(flat.end(), inside->begin(), inside->end());
  }
  std::vector<ManifestFile> files;
  for (const std::string& path : flat) {
    auto text = path == "-" ? read_input(in) : read_file(path, limits::manifest_bytes_max);
    if (!text) return wrong_file(text.error());
    const std::string shown = path == "-" ? "stdin" : path;
    auto decoded = decode_manifest(*text, shown);
    files.push_back({shown, std::move(*text), std::move(decoded)});
  }
  return files;
}

std::vector<std::string> problems_of(const std::vector<ManifestFile>& files) {
  std::vector<std::string> problems;
  std::map<std::string, std::string> taken;  // name -> file
  for (const ManifestFile& file : files) {
    for (const Problem& problem : file.decoded.problems) problems.push_back(problem.to_string());
    if (file.decoded.problems.empty() && file.decoded.documents.empty())
      problems.push_back(file.path + ": there is no UblkVolume in it");
    for (const DecodedDocument& document : file.decoded.documents) {
      for (const Problem& problem : document.problems) problems.push_back(problem.to_string());
      if (document.name.empty()) continue;
      const auto [first, fresh] = taken.emplace(document.name, file.path);
      // Twice in one file is decode's to report.
      if (!fresh && first->second != file.path) {
        problems.push_back(file.path + ":" + std::to_string(document.line) +
                           ":1: metadata.name: '" + document.name + "' is also in " +
                           first->second);
      }
    }
  }
  return problems;
}

}  // namespace ublk_operator

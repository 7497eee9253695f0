// Manifests from files, folders and standard input, read and checked before anything is asked of
// the agent.
#pragma once
#include <istream>
#include <string>
#include <vector>

#include "common/api/decode.h"
#include "common/base/result.h"

namespace ublk_operator {

struct ManifestFile {
  std::string path;  // "-" is shown as "stdin"
  std::string text;
  DecodedManifest decoded;
};

// `path`: a file, "-", or a folder, of which every *.yaml, *.yml and *.json is taken, in order of
// their names (names that begin with a dot are not: editors leave those). ENOENT with no volume
// meant: EINVAL instead, since the argument is wrong. EFBIG: larger than
// limits::manifest_bytes_max.
[[nodiscard]] Result<std::vector<ManifestFile>> read_manifests(
    const std::vector<std::string>& paths, std::istream& in);

// Every problem of every file, one name in two files included: "vol.yaml:12:9: spec.size: ...".
[[nodiscard]] std::vector<std::string> problems_of(const std::vector<ManifestFile>& files);

}  // namespace ublk_operator

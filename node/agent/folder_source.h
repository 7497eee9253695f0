// FolderSource: a ManifestFolder as the agent's source of volumes.
#pragma once
#include <memory>
#include <string>

#include "node/agent/manifest_folder.h"
#include "node/agent/volume_source.h"

namespace ublk_operator {

// `node_name`: what this machine is called; a manifest with another spec.nodeName is not for it.
[[nodiscard]] Result<std::unique_ptr<VolumeSource>> open_folder_source(const std::string& path,
                                                                       std::string node_name);
[[nodiscard]] std::string machine_name();  // uname(2)

}  // namespace ublk_operator

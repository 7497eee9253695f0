// Which API server, and who we are to it: from a pod's service account or from a kubeconfig file.
// Source   client-go's rest.InClusterConfig and clientcmd's Config; only what the project's
//          programs meet: token, token file, client certificate, certificate authority by file or
//          inline.
// Errors   ENOENT: not in a pod, or no such file or context; EINVAL: a field is missing or not
//          supported (detail names it, and what to use instead).
// Threads  pure functions, which read files.
#pragma once
#include <string>

#include "common/base/result.h"

namespace ublk_operator::kube {

struct ClusterConfig {
  std::string server;          // "https://10.96.0.1:443"
  std::string authority_file;  // PEM; empty: authority_data
  std::string authority_data;  // PEM; both empty: the machine's authorities
  std::string token_file;      // preferred to `token`
  std::string token;
  std::string client_certificate;  // PEM; with client_key instead of a token
  std::string client_key;          // PEM
  std::string tls_server_name;     // empty: the server's own
  std::string namespace_name = "default";
};

// `root`: for tests; the folder that stands for "/".
[[nodiscard]] Result<ClusterConfig> in_cluster_config(const std::string& root = "");
// `context`: empty for the file's current-context.
[[nodiscard]] Result<ClusterConfig> kubeconfig(const std::string& path,
                                               const std::string& context = "");
// --kubeconfig, else $KUBECONFIG (its first file), else the pod's.
[[nodiscard]] Result<ClusterConfig> default_config(const std::string& kubeconfig_option,
                                                   const std::string& context = "");

}  // namespace ublk_operator::kube

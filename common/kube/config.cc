#include "common/kube/config.h"

#include <cerrno>
#include <cstdlib>
#include <optional>

#include "common/base/files.h"
#include "common/base/strings.h"
#include "nlohmann/json.hpp"
#include "yaml-cpp/yaml.h"

namespace ublk_operator::kube {

namespace {

constexpr size_t file_bytes_max = 1 << 20;
constexpr const char* service_account = "/var/run/secrets/kubernetes.io/serviceaccount";

std::optional<std::string> from_base64(std::string_view text) {
  std::string out;
  unsigned bits = 0;
  unsigned count = 0;
  for (const char c : text) {
    unsigned value = 0;
    if (c >= 'A' && c <= 'Z')
      value = static_cast<unsigned>(c - 'A');
    else if (c >= 'a' && c <= 'z')
      value = static_cast<unsigned>(c - 'a') + 26;
    else if (c >= '0' && c <= '9')
      value = static_cast<unsigned>(c - '0') + 52;
    else if (c == '+')
      value = 62;
    else if (c == '/')
      value = 63;
    else if (c == '=' || c == '\n')
      continue;
    else
      return std::nullopt;
    bits = bits << 6 | value;
    if (++count % 4 != 1) out += static_cast<char>(bits >> (6 - 2 * ((count - 1) % 4)) & 0xff);
  }
  return out;
}

// The entry called `name` of a kubeconfig's list of {name, WHAT}.
YAML::Node entry(const YAML::Node& list, const std::string& name, const std::string& what) {
  for (const auto& item : list)
    if (item["name"] && item["name"].as<std::string>("") == name) return item[what];
  return YAML::Node(YAML::NodeType::Undefined);
}

std::string text(const YAML::Node& node, const char* field) {
  return node && node.IsMap() && node[field] ? node[field].as<std::string>("") : std::string();
}

// FIELD-data (base64), else the file that FIELD names, relative to the kubeconfig's folder.
Result<std::string> data_or_file(const YAML::Node& node, const std::string& name,
                                 const std::string& path) {
  if (const std::string data = text(node, (name + "-data").c_str()); !data.empty()) {
    auto decoded = from_base64(data);
    if (!decoded) return Error{EINVAL, "kubeconfig", path, name + "-data is not base64"};
    return *decoded;
  }
  std::string file = text(node, name.c_str());
  if (file.empty()) return std::string();
  if (file.front() != '/') file = path.substr(0, path.rfind('/') + 1) + file;
  return read_file(file, file_bytes_max);
}

Result<ClusterConfig> parse_kubeconfig(const YAML::Node& root, const std::string& path,
                                       const std::string& wanted) {
  const std::string name = wanted.empty() ? text(root, "current-context") : wanted;
  const YAML::Node context = entry(root["contexts"], name, "context");
  if (!context)
    return Error{ENOENT, "kubeconfig", path,
                 name.empty() ? "it has no current-context; name one with --context"
                              : "it has no context \"" + name + "\""};
  const YAML::Node cluster = entry(root["clusters"], text(context, "cluster"), "cluster");
  const YAML::Node user = entry(root["users"], text(context, "user"), "user");
  ClusterConfig config;
  config.server = text(cluster, "server");
  if (config.server.empty())
    return Error{EINVAL, "kubeconfig", path,
                 "the cluster of context \"" + name + "\" has no server"};
  if (text(cluster, "insecure-skip-tls-verify") == "true")
    return Error{EINVAL, "kubeconfig", path,
                 "insecure-skip-tls-verify is not supported; give the cluster's "
                 "certificate-authority"};
  if (user && user.IsMap())
    for (const char* unsupported : {"exec", "auth-provider", "username"})
      if (user[unsupported])
        return Error{EINVAL, "kubeconfig", path,
                     std::string("a user with \"") + unsupported +
                         "\" is not supported; use a token, a tokenFile or a client certificate"};
  auto authority = data_or_file(cluster, "certificate-authority", path);
  if (!authority) return std::move(authority).error();
  config.authority_data = std::move(*authority);
  config.tls_server_name = text(cluster, "tls-server-name");
  auto certificate = data_or_file(user, "client-certificate", path);
  if (!certificate) return std::move(certificate).error();
  config.client_certificate = std::move(*certificate);
  auto key = data_or_file(user, "client-key", path);
  if (!key) return std::move(key).error();
  config.client_key = std::move(*key);
  config.token = text(user, "token");
  config.token_file = text(user, "tokenFile");
  if (const std::string space = text(context, "namespace"); !space.empty())
    config.namespace_name = space;
  return config;
}

}  // namespace

Result<ClusterConfig> in_cluster_config(const std::string& root) {
  const char* host = std::getenv("KUBERNETES_SERVICE_HOST");
  const char* port = std::getenv("KUBERNETES_SERVICE_PORT");
  if (host == nullptr || port == nullptr)
    return Error{ENOENT, "cluster_config", "KUBERNETES_SERVICE_HOST",
                 "not set, so this is no pod; give --kubeconfig"};
  const std::string folder = root + service_account;
  ClusterConfig config;
  const std::string address(host);
  const bool v6 = address.find(':') != std::string::npos;
  config.server = "https://" + (v6 ? "[" + address + "]" : address) + ":" + port;
  config.authority_file = folder + "/ca.crt";
  config.token_file = folder + "/token";
  auto token = read_file(config.token_file, file_bytes_max);
  if (!token)
    return Error{token.err(), "cluster_config", config.token_file,
                 "the pod has no service account token; is automountServiceAccountToken false?"};
  if (auto space = read_file(folder + "/namespace", file_bytes_max))
    config.namespace_name = std::string(trim(*space));
  return config;
}

Result<ClusterConfig> kubeconfig(const std::string& path, const std::string& context) {
  auto content = read_file(path, file_bytes_max);
  if (!content) return std::move(content).error();
  try {
    return parse_kubeconfig(YAML::Load(*content), path, context);
  } catch (const YAML::Exception& problem) {
    return Error{EINVAL, "kubeconfig", path, problem.what()};
  }
}

Result<ClusterConfig> default_config(const std::string& kubeconfig_option,
                                     const std::string& context) {
  if (!kubeconfig_option.empty()) return kubeconfig(kubeconfig_option, context);
  const char* variable = std::getenv("KUBECONFIG");
  if (variable != nullptr && *variable != 0) {
    const std::string files(variable);
    return kubeconfig(files.substr(0, files.find(':')), context);
  }
  return in_cluster_config();
}

}  // namespace ublk_operator::kube

#include "common/kube/client.h"

#include <array>
#include <cerrno>

namespace ublk_operator::kube {

namespace {

constexpr const char* json_type = "application/json";

nlohmann::json parse(const std::string& body) {
  return nlohmann::json::parse(body, nullptr, /*allow_exceptions=*/false);
}

std::string field(const nlohmann::json& object, const char* name) {
  const auto at = object.is_object() ? object.find(name) : object.end();
  return object.is_object() && at != object.end() && at->is_string() ? at->get<std::string>()
                                                                     : std::string();
}

// Names of processes and paths come with conditions and events, and need not be UTF-8; dump() would
// throw on them.
std::string body_of(const nlohmann::json& object) {
  return object.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

int errno_of(int status, const std::string& reason) {
  switch (status) {
    case 400:
    case 422:
      return EINVAL;
    case 401:
    case 403:
      return EACCES;
    case 404:
      return ENOENT;
    case 409:
      return reason == "AlreadyExists" ? EEXIST : EBUSY;
    case 410:
      return ESTALE;
    case 413:
      return E2BIG;
    default:
      return status == 429 || status >= 500 ? EAGAIN : EIO;
  }
}

}  // namespace

std::string Resource::path() const {
  std::string path = group.empty() ? "/api/" + version : "/apis/" + group + "/" + version;
  if (!namespace_name.empty()) path += "/namespaces/" + namespace_name;
  return path + "/" + plural;
}

std::string Resource::path(const std::string& name, const std::string& subresource) const {
  UBLK_CHECK(!name.empty());
  return path() + "/" + name + (subresource.empty() ? "" : "/" + subresource);
}

std::string query_escape(std::string_view text) {
  static constexpr std::string_view plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~";
  static constexpr std::array digits{'0', '1', '2', '3', '4', '5', '6', '7',
                                     '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'};
  std::string out;
  for (const char c : text) {
    if (plain.find(c) != std::string_view::npos) {
      out += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out += '%';
      out += digits[byte >> 4];
      out += digits[byte & 15];
    }
  }
  return out;
}

Error status_error(const HttpResponse& response, const std::string& operation,
                   const std::string& object) {
  const nlohmann::json status = parse(response.body);
  std::string detail = field(status, "message");
  if (detail.empty()) detail = "HTTP status " + std::to_string(response.status);
  if (response.status == 401) detail += "; the token is missing, expired or of another cluster";
  return Error{errno_of(response.status, field(status, "reason")), operation, object,
               std::move(detail)};
}

Result<nlohmann::json> KubeClient::send(const HttpRequest& request, const std::string& operation,
                                        const Cancel& cancel) const {
  auto response = transport_->call(request, silence_, cancel);
  if (!response) return std::move(response).error();
  const std::string object = request.path.substr(0, request.path.find('?'));
  if (response->status < 200 || response->status > 299)
    return status_error(*response, operation, object);
  nlohmann::json body = parse(response->body);
  if (body.is_discarded())
    return Error{EIO, operation, object, "the answer is not JSON; is this an API server?"};
  return body;
}

Result<nlohmann::json> KubeClient::get(const std::string& path, const Cancel& cancel) const {
  return send({"GET", path, "", ""}, "get", cancel);
}

Result<nlohmann::json> KubeClient::create(const std::string& path, const nlohmann::json& object,
                                          const Cancel& cancel) const {
  return send({"POST", path, json_type, body_of(object)}, "create", cancel);
}

Result<nlohmann::json> KubeClient::update(const std::string& path, const nlohmann::json& object,
                                          const Cancel& cancel) const {
  return send({"PUT", path, json_type, body_of(object)}, "update", cancel);
}

Result<nlohmann::json> KubeClient::apply(const std::string& path, const nlohmann::json& object,
                                         const std::string& manager, const Cancel& cancel) const {
  // JSON is YAML. Forced: each field has one owner among our programs, and what somebody else put
  // there by hand is put right.
  return send({"PATCH", path + "?fieldManager=" + query_escape(manager) + "&force=true",
               "application/apply-patch+yaml", body_of(object)},
              "apply", cancel);
}

Result<nlohmann::json> KubeClient::merge_patch(const std::string& path, const nlohmann::json& patch,
                                               const std::string& manager,
                                               const Cancel& cancel) const {
  const std::string who = manager.empty() ? "" : "?fieldManager=" + query_escape(manager);
  return send({"PATCH", path + who, "application/merge-patch+json", body_of(patch)}, "patch",
              cancel);
}

Result<nlohmann::json> KubeClient::json_patch(const std::string& path, const nlohmann::json& patch,
                                              const std::string& manager,
                                              const Cancel& cancel) const {
  return send({"PATCH", path + "?fieldManager=" + query_escape(manager),
               "application/json-patch+json", body_of(patch)},
              "patch", cancel);
}

Result<void> KubeClient::remove(const std::string& path, const Cancel& cancel) const {
  auto gone = send({"DELETE", path, "", ""}, "delete", cancel);
  if (!gone) return std::move(gone).error();
  return {};
}

}  // namespace ublk_operator::kube

// KubeClient: calls of the Kubernetes API with JSON bodies, and its errors as ours.
// Shape    paths as made by Resource::path(); objects as nlohmann::json.
// Errors   EACCES: 401, 403; ENOENT: 404; EEXIST: 409 AlreadyExists; EBUSY: 409 Conflict; ESTALE:
//          410 (the resource version or continue token is too old); EINVAL: 400, 422 (detail is the
//          server's sentence, which names the field); E2BIG: 413; EAGAIN: 429, 5xx: try again, with
//          back-off; and those of Transport.
// Threads  any.
// Source   Kubernetes API conventions, "Response Status Kind", "Server-Side Apply".
#pragma once
#include <chrono>
#include <memory>
#include <string>

#include "common/base/result.h"
#include "common/kube/transport.h"
#include "nlohmann/json.hpp"

namespace ublk_operator::kube {

// A kind of objects, by where the API serves them.
struct Resource {
  std::string group;  // "" for core
  std::string version;
  std::string plural;
  // "/apis/ublk.dev/v1alpha1/ublkvolumes", with "/namespaces/NS" when given: all of them.
  [[nodiscard]] std::string path() const;
  // ".../NAME[/SUBRESOURCE]": one. Never empty: what is meant for one object would be done to all.
  [[nodiscard]] std::string path(const std::string& name,
                                 const std::string& subresource = "") const;
  std::string namespace_name;  // empty: cluster-scoped, or all namespaces
};

// Percent-encoding of a query's value (RFC 3986).
[[nodiscard]] std::string query_escape(std::string_view text);

// The error that an answer other than 2xx stands for. `operation`: "get", "apply"...
[[nodiscard]] Error status_error(const HttpResponse& response, const std::string& operation,
                                 const std::string& object);

class KubeClient {
 public:
  // `silence`: a call fails when the server says nothing for that long.
  explicit KubeClient(std::shared_ptr<Transport> transport,
                      std::chrono::seconds silence = std::chrono::seconds(10))
      : transport_(std::move(transport)), silence_(silence) {}

  [[nodiscard]] Result<nlohmann::json> get(const std::string& path, const Cancel& cancel) const;
  [[nodiscard]] Result<nlohmann::json> create(const std::string& path, const nlohmann::json& object,
                                              const Cancel& cancel) const;
  // PUT: EBUSY when the object's resourceVersion is not the newest.
  [[nodiscard]] Result<nlohmann::json> update(const std::string& path, const nlohmann::json& object,
                                              const Cancel& cancel) const;
  // Server-side apply: what `manager` applied before and leaves out now goes.
  [[nodiscard]] Result<nlohmann::json> apply(const std::string& path, const nlohmann::json& object,
                                             const std::string& manager,
                                             const Cancel& cancel) const;
  // With metadata.resourceVersion in it: EBUSY when that is not the newest. `manager`: who owns the
  // fields from then on; empty: named by the server.
  [[nodiscard]] Result<nlohmann::json> merge_patch(const std::string& path,
                                                   const nlohmann::json& patch,
                                                   const std::string& manager,
                                                   const Cancel& cancel) const;
  // RFC 6902: all operations or none; EINVAL also when one does not fit, such as a test that fails.
  [[nodiscard]] Result<nlohmann::json> json_patch(const std::string& path,
                                                  const nlohmann::json& patch,
                                                  const std::string& manager,
                                                  const Cancel& cancel) const;
  [[nodiscard]] Result<void> remove(const std::string& path, const Cancel& cancel) const;
  [[nodiscard]] const std::shared_ptr<Transport>& transport() const { return transport_; }

 private:
  [[nodiscard]] Result<nlohmann::json> send(const HttpRequest& request,
                                            const std::string& operation,
                                            const Cancel& cancel) const;
  std::shared_ptr<Transport> transport_;
  std::chrono::seconds silence_;
};

}  // namespace ublk_operator::kube

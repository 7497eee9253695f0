// Transport: HTTP to one API server, as far as a Kubernetes client needs it. The only thing of the
// HTTP library that leaves its room; tests put a proxy, or a script, in its place.
// Shape    paths begin with "/", with the query. Bodies are bytes.
// Errors   an answer of any status is a HttpResponse, not an Error. ENOTCONN: the server cannot be
//          reached, or the connection broke; ETIMEDOUT: nothing was heard for `silence`; ECANCELED;
//          EFBIG: the body is larger than body_bytes_max; EACCES: the server's certificate is not
//          one of the configured authority; EIO: what came is not HTTP.
// Bounds   idle connections are kept for the next calls, and all given up with the first that is
//          silent, so that the call after it goes through a new one.
// Threads  any.
#pragma once
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/result.h"
#include "common/kube/cancel.h"
#include "common/kube/config.h"

namespace ublk_operator::kube {

struct HttpRequest {
  std::string method = "GET";
  std::string path;
  std::string content_type;  // of `body`; empty: none is sent
  std::string body;
};

struct HttpResponse {
  int status = 0;
  std::string body;
};

class Transport {
 public:
  static constexpr size_t body_bytes_max = 64 << 20;  // 500 of the largest objects fit
  static constexpr size_t line_bytes_max = 4 << 20;   // etcd's limit of an object is below 2 MiB

  virtual ~Transport() = default;
  [[nodiscard]] virtual Result<HttpResponse> call(const HttpRequest& request,
                                                  std::chrono::seconds silence,
                                                  const Cancel& cancel) = 0;
  // A body of lines without a known end, as of a watch: `on_line` gets each (without "\n") from a
  // thread of the transport, one after the other, until the body ends; false ends it. What an
  // answer other than 200 says is in the response's body instead.
  [[nodiscard]] virtual Result<HttpResponse> stream(
      const HttpRequest& request, std::chrono::seconds silence, const Cancel& cancel,
      const std::function<bool(std::string_view line)>& on_line) = 0;
};

// By cpprestsdk, with TLS verified against the configuration's authority. The bearer token is read
// again from its file for each request (kubelet rotates it).
[[nodiscard]] Result<std::unique_ptr<Transport>> make_transport(const ClusterConfig& config);

}  // namespace ublk_operator::kube

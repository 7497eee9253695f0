// HttpServer: answers GET for a few paths that are known at the start (/metrics, /healthz), and
// nothing else.
// Shape    a page a path, without the query; 404 and 405 for the rest. No TLS: what is served holds
//          no secret, and who reaches the port is a matter of network policies.
// Errors   EINVAL: not an ADDRESS:PORT; EADDRINUSE and the like: the port cannot be had.
// Bounds   no body is read; answers are what the pages return.
// Threads  pages are called from threads of the HTTP library, several at a time: they must not wait
//          for the network. The destructor waits for answers under way.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "common/base/result.h"

namespace ublk_operator::http {

struct Reply {
  int status = 200;
  std::string body;
  std::string content_type = "text/plain; charset=utf-8";
};
using Pages = std::map<std::string, std::function<Reply()>>;  // by path: "/metrics"

class HttpServer {
 public:
  // `address`: "0.0.0.0:8080", "[::]:8080"; "127.0.0.1:0" is not supported, port 0 being nobody's.
  [[nodiscard]] static Result<std::unique_ptr<HttpServer>> listen(const std::string& address,
                                                                  Pages pages);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

 private:
  struct Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace ublk_operator::http

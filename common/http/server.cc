// cpprestsdk's listener stays in this file.
#include "common/http/server.h"

#include <cpprest/http_listener.h>

#include <boost/system/system_error.hpp>
#include <cerrno>
#include <charconv>
#include <system_error>

#include "common/http/threads.h"

namespace ublk_operator::http {

namespace rest = web::http;

namespace {

constexpr unsigned port_max = 65535;

bool is_address(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos || colon == 0) return false;
  unsigned port = 0;
  const char* end = address.data() + address.size();
  const auto [rest_of, error] = std::from_chars(address.data() + colon + 1, end, port);
  return error == std::errc() && rest_of == end && port > 0 && port <= port_max &&
         web::uri::validate("http://" + address);
}

int errno_of(const std::exception& problem) {
  const auto* system = dynamic_cast<const boost::system::system_error*>(&problem);
  return system != nullptr && system->code().category() == boost::system::system_category()
             ? system->code().value()
             : EADDRNOTAVAIL;
}

}  // namespace

struct HttpServer::Impl {
  Impl(const std::string& address, Pages known)
      : pages(std::move(known)), listener(web::uri("http://" + address + "/")) {
    listener.support([this](const rest::http_request& request) { answer(request); });
  }

  void answer(const rest::http_request& request) const {
    Reply reply{rest::status_codes::NotFound, "not found\n"};
    if (request.method() != rest::methods::GET) {
      reply = {rest::status_codes::MethodNotAllowed, "only GET\n"};
    } else if (const auto page = pages.find(request.relative_uri().path()); page != pages.end()) {
      reply = page->second();
    }
    rest::http_response response(static_cast<rest::status_code>(reply.status));
    response.set_body(std::move(reply.body), reply.content_type);
    // Who asked may be gone by now, which is no concern of ours: the task's error is looked at.
    request.reply(response).then([](const pplx::task<void>& sent) {
      try {
        sent.get();
      } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch)
      }
    });
  }

  const Pages pages;
  rest::experimental::listener::http_listener listener;
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() {
  try {
    impl_->listener.close().wait();
  } catch (const std::exception&) {  // NOLINT(bugprone-empty-catch): it is closed all the same
  }
}

Result<std::unique_ptr<HttpServer>> HttpServer::listen(const std::string& address, Pages pages) {
  if (!is_address(address))
    return Error{EINVAL, "listen", address, "expected ADDRESS:PORT, such as 0.0.0.0:8080"};
  start_threads();
  try {
    auto impl = std::make_unique<Impl>(address, std::move(pages));
    impl->listener.open().wait();
    return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
  } catch (const std::exception& problem) {
    return Error{errno_of(problem), "listen", address, problem.what()};
  }
}

}  // namespace ublk_operator::http

// Pages as a scraper and a kubelet ask for them.
#include "common/http/server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <string>

#include "common/base/unique_fd.h"

namespace ublk_operator::http {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

sockaddr_in loopback(uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// A port of loopback that was free a moment ago.
uint16_t free_port() {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = loopback(0);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  socklen_t size = sizeof address;
  EXPECT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  return ntohs(address.sin_port);
}

std::string ask(uint16_t port, const std::string& what) {
  const UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_in address = loopback(port);
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    return "cannot connect";
  const std::string text = what + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  (void)::send(fd.get(), text.data(), text.size(), MSG_NOSIGNAL);
  std::string answer;
  char buffer[4096];
  for (ssize_t n = 0; (n = ::recv(fd.get(), buffer, sizeof buffer, 0)) > 0;)
    answer.append(buffer, static_cast<size_t>(n));
  return answer;
}

class HttpServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = HttpServer::listen(address_, {{"/healthz", [] { return Reply{200, "ok\n"}; }},
                                              {"/readyz", [] { return Reply{503, "not yet\n"}; }}});
    ASSERT_TRUE(made.ok()) << made.error().to_string();
    server_ = std::move(made).value();
  }
  const uint16_t port_ = free_port();
  const std::string address_ = "127.0.0.1:" + std::to_string(port_);
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, APageIsAnsweredWithItsStatus) {
  const std::string good = ask(port_, "GET /healthz?verbose=1");
  EXPECT_THAT(good, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(good, HasSubstr("\r\n\r\nok\n"));
  EXPECT_THAT(good, HasSubstr("text/plain"));
  EXPECT_THAT(ask(port_, "GET /readyz"), StartsWith("HTTP/1.1 503"));
}

TEST_F(HttpServerTest, NothingElseIsAnswered) {
  EXPECT_THAT(ask(port_, "GET /"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(ask(port_, "GET /healthz/x"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(ask(port_, "DELETE /healthz"), StartsWith("HTTP/1.1 405"));
}

TEST_F(HttpServerTest, APortThatIsTakenIsSaid) {
  const UniqueFd other(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = loopback(0);
  ASSERT_EQ(::bind(other.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(other.get(), 1), 0);
  socklen_t size = sizeof address;
  ASSERT_EQ(::getsockname(other.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  const auto second =
      HttpServer::listen("127.0.0.1:" + std::to_string(ntohs(address.sin_port)), {});
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.err(), EADDRINUSE) << second.error().to_string();
}

TEST_F(HttpServerTest, ThePortIsFreeAfterwards) {
  server_.reset();
  EXPECT_EQ(ask(port_, "GET /healthz"), "cannot connect");
}

TEST(HttpServerAddressTest, WhatIsNoAddressIsSaid) {
  for (const char* wrong : {"", "8080", ":8080", "host:", "host:x", "host:70000", "host:0"})
    EXPECT_EQ(HttpServer::listen(wrong, {}).err(), EINVAL) << wrong;
}

}  // namespace
}  // namespace ublk_operator::http

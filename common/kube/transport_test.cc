// HTTP as an API server and a bad network make it: answers, watches, hangs, cuts.
#include "common/kube/transport.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <latch>
#include <list>
#include <thread>
#include <vector>

#include "common/base/unique_fd.h"

namespace ublk_operator::kube {
namespace {

using namespace std::chrono_literals;

// The port.
int listen_on_loopback(const UniqueFd& listener) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  socklen_t size = sizeof address;
  EXPECT_EQ(::getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  EXPECT_EQ(::listen(listener.get(), 4), 0);
  return ntohs(address.sin_port);
}

// A server on loopback whose connections are served by the test's script, each in a thread.
class Peer {
 public:
  class Connection {
   public:
    Connection(UniqueFd fd, int nth) : number(nth), fd_(std::move(fd)) {}
    const int number;  // from 0, in the order of their coming
    void send(const std::string& text) const {
      (void)::send(fd_.get(), text.data(), text.size(), MSG_NOSIGNAL);
    }
    void answer(int status, const std::string& body) const {
      send("HTTP/1.1 " + std::to_string(status) +
           " X\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body);
    }
    void begin_chunks() const { send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"); }
    void chunk(const std::string& text) const {
      char size[16];
      std::snprintf(size, sizeof size, "%zx\r\n", text.size());
      send(size + text + "\r\n");
    }
    // Until the other side closes.
    void hang() const {
      char byte = 0;
      while (::recv(fd_.get(), &byte, 1, 0) > 0) {
      }
    }

   private:
    friend class Peer;
    UniqueFd fd_;
    std::string request_;
  };
  // Runs once the first request is there.
  using Script = std::function<void(Connection& connection)>;
  explicit Peer(Script script)
      : script_(std::move(script)), listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    port_ = listen_on_loopback(listener_);
    acceptor_ = std::thread([this] { accept(); });
  }
  ~Peer() { end(); }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  [[nodiscard]] std::unique_ptr<Transport> transport(ClusterConfig config = {}) const {
    config.server = "http://127.0.0.1:" + std::to_string(port_);
    auto made = make_transport(config);
    EXPECT_TRUE(made.ok());
    return std::move(made).value();
  }
  // The first connection's, once the scripts ran; no connection is accepted any more.
  [[nodiscard]] const std::string& request() {
    end();
    return connections_.front().request_;
  }

 private:
  void accept() {
    for (int number = 0;; ++number) {
      UniqueFd fd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!fd.valid()) return;
      auto& connection = connections_.emplace_back(std::move(fd), number);
      threads_.emplace_back([this, &connection] { serve(connection); });
    }
  }
  void serve(Connection& connection) {
    char buffer[4096];
    while (connection.request_.find("\r\n\r\n") == std::string::npos) {
      const ssize_t n = ::recv(connection.fd_.get(), buffer, sizeof buffer, 0);
      if (n <= 0) return;
      connection.request_.append(buffer, static_cast<size_t>(n));
    }
    script_(connection);
    ::shutdown(connection.fd_.get(), SHUT_RDWR);
  }
  void end() {
    if (!acceptor_.joinable()) return;
    ::shutdown(listener_.get(), SHUT_RDWR);
    acceptor_.join();
    for (auto& thread : threads_) thread.join();
  }

  const Script script_;
  UniqueFd listener_;
  int port_ = 0;
  std::list<Connection> connections_;  // of the acceptor, until it ends
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

TEST(TransportTest, AnAnswerOfAnyStatusIsAnAnswer) {
  Peer peer([](Peer::Connection& p) { p.answer(429, "slow down"); });
  const auto response = peer.transport()->call({"GET", "/x?a=b%2Fc", "", ""}, 5s, Cancel());
  ASSERT_TRUE(response.ok()) << response.error().to_string();
  EXPECT_EQ(response->status, 429);
  EXPECT_EQ(response->body, "slow down");
  EXPECT_EQ(peer.request().substr(0, 23), "GET /x?a=b%2Fc HTTP/1.1");
}

TEST(TransportTest, TheTokenIsReadAnewForEachRequest) {
  const std::string file = ::testing::TempDir() + "kube_token." + std::to_string(::getpid());
  ClusterConfig config;
  config.token_file = file;
  std::ofstream(file) << "first\n";
  Peer one([](Peer::Connection& p) { p.answer(200, "{}"); });
  const auto transport = one.transport(config);
  std::ofstream(file) << "second\n";
  (void)transport->call({"PATCH", "/y", "application/json", "{}"}, 5s, Cancel());
  EXPECT_NE(one.request().find("Bearer second"), std::string::npos) << one.request();
  std::filesystem::remove(file);
}

TEST(TransportTest, LinesOfAWatchComeAsTheyAreSent) {
  std::promise<void> go_on;
  Peer peer([&](Peer::Connection& p) {
    p.begin_chunks();
    p.chunk("one\ntw");
    (void)go_on.get_future().wait_for(10s);
    p.chunk("o\n");
    p.chunk("");
  });
  std::vector<std::string> lines;
  const auto response =
      peer.transport()->stream({"GET", "/w", "", ""}, 10s, Cancel(), [&](std::string_view line) {
        lines.emplace_back(line);
        if (lines.size() == 1)
          go_on.set_value();  // the second is not sent before the first is here
        return true;
      });
  ASSERT_TRUE(response.ok()) << response.error().to_string();
  EXPECT_EQ(response->status, 200);
  EXPECT_EQ(lines, (std::vector<std::string>{"one", "two"}));
}

TEST(TransportTest, ARefusedWatchSaysWhyInItsBody) {
  Peer peer([](Peer::Connection& p) { p.answer(410, "{\"code\":410}"); });
  int lines = 0;
  const auto response =
      peer.transport()->stream({"GET", "/w", "", ""}, 5s, Cancel(), [&](std::string_view) {
        ++lines;
        return true;
      });
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 410);
  EXPECT_EQ(response->body, "{\"code\":410}");
  EXPECT_EQ(lines, 0);
}

TEST(TransportTest, AWatchThatHangsSilentlyIsFound) {
  Peer peer([](Peer::Connection& p) {
    p.begin_chunks();
    p.chunk("one\n");
    p.hang();
  });
  const auto begun = std::chrono::steady_clock::now();
  const auto response = peer.transport()->stream({"GET", "/w", "", ""}, 1s, Cancel(),
                                                 [](std::string_view) { return true; });
  EXPECT_EQ(response.err(), ETIMEDOUT) << response.error().to_string();
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 20s);
}

TEST(TransportTest, AWatchThatSaysSomethingNowAndThenGoesOn) {
  Peer peer([](Peer::Connection& p) {
    p.begin_chunks();
    for (int i = 0; i < 6; ++i) {
      ::poll(nullptr, 0, 500);
      p.chunk("one\n");
    }
    p.chunk("");
  });
  int lines = 0;
  const auto response =
      peer.transport()->stream({"GET", "/w", "", ""}, 2s, Cancel(), [&](std::string_view) {
        ++lines;
        return true;
      });
  EXPECT_TRUE(response.ok()) << response.error().to_string();
  EXPECT_EQ(lines, 6);
}

// A failover, or a firewall that forgot: what was kept for the next calls is as silent.
TEST(TransportTest, OfSeveralSilentConnectionsOnlyTheFirstCostsTime) {
  std::latch both(2);
  Peer peer([&both](Peer::Connection& p) {
    if (p.number < 2) both.arrive_and_wait();  // neither is there for the other's request
    p.answer(200, std::to_string(p.number));
    p.hang();
  });
  const auto transport = peer.transport();
  const auto call = [&transport] { return transport->call({"GET", "/x", "", ""}, 2s, Cancel()); };
  auto other = std::async(std::launch::async, call);
  ASSERT_TRUE(call().ok());
  ASSERT_TRUE(other.get().ok());
  const auto begun = std::chrono::steady_clock::now();
  EXPECT_EQ(call().err(), ETIMEDOUT);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 3900ms) << "silent twice";
  const auto response = call();
  ASSERT_TRUE(response.ok()) << response.error().to_string();
  EXPECT_EQ(response->body, "2");
}

TEST(TransportTest, AConnectionCutInTheMiddleIsAnError) {
  Peer peer([](Peer::Connection& p) {
    p.begin_chunks();
    p.chunk("one\n");
    p.send("ff\r\nhalf");
  });
  const auto response = peer.transport()->stream({"GET", "/w", "", ""}, 5s, Cancel(),
                                                 [](std::string_view) { return true; });
  EXPECT_EQ(response.err(), ENOTCONN);
}

TEST(TransportTest, CancelEndsACallThatHangs) {
  Cancel cancel;
  Peer peer([&](Peer::Connection& p) {
    cancel.cancel();
    p.hang();
  });
  EXPECT_EQ(peer.transport()->call({"GET", "/x", "", ""}, 30s, cancel).err(), ECANCELED);
  EXPECT_EQ(peer.transport()->call({"GET", "/x", "", ""}, 30s, cancel).err(), ECANCELED)
      << "and from then on";
}

TEST(TransportTest, TheListenerCanEndAWatch) {
  Peer peer([](Peer::Connection& p) {
    p.begin_chunks();
    p.chunk("one\ntwo\n");
    p.hang();
  });
  int lines = 0;
  const auto begun = std::chrono::steady_clock::now();
  const auto response =
      peer.transport()->stream({"GET", "/w", "", ""}, 60s, Cancel(), [&](std::string_view) {
        ++lines;
        return false;
      });
  ASSERT_TRUE(response.ok()) << response.error().to_string();
  EXPECT_EQ(lines, 1);
  EXPECT_LT(std::chrono::steady_clock::now() - begun, 50s)
      << "it waited for the server's next word";
}

TEST(TransportTest, ALineWithoutEndIsGivenUp) {
  Peer peer([](Peer::Connection& p) {
    p.begin_chunks();
    const std::string much(1 << 20, 'x');
    for (int i = 0; i < 8; ++i) p.chunk(much);
    p.hang();
  });
  const auto response = peer.transport()->stream({"GET", "/w", "", ""}, 30s, Cancel(),
                                                 [](std::string_view) { return true; });
  EXPECT_EQ(response.err(), EFBIG);
}

// --- TLS

struct KeyPair {
  std::shared_ptr<EVP_PKEY> key;
  std::shared_ptr<X509> certificate;
};

// Signed by `issuer`, or by itself; `names` as in a subjectAltName.
KeyPair make_certificate(const std::string& subject, const KeyPair* issuer,
                         const std::string& names) {
  KeyPair made{{EVP_EC_gen("P-256"), EVP_PKEY_free}, {X509_new(), X509_free}};
  X509* x = made.certificate.get();
  X509_set_version(x, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(x), issuer == nullptr ? 1 : 2);
  X509_gmtime_adj(X509_getm_notBefore(x), -60);
  X509_gmtime_adj(X509_getm_notAfter(x), 3600);
  X509_set_pubkey(x, made.key.get());
  X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(subject.c_str()), -1, -1, 0);
  X509_set_issuer_name(x, X509_get_subject_name(issuer == nullptr ? x : issuer->certificate.get()));
  const auto extend = [&](int kind, const std::string& value) {
    X509V3_CTX context;
    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, x, x, nullptr, nullptr, 0);
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str());
    X509_add_ext(x, extension, -1);
    X509_EXTENSION_free(extension);
  };
  extend(NID_basic_constraints, issuer == nullptr ? "critical,CA:TRUE" : "critical,CA:FALSE");
  if (!names.empty()) extend(NID_subject_alt_name, names);
  X509_sign(x, issuer == nullptr ? made.key.get() : issuer->key.get(), EVP_sha256());
  return made;
}

std::string pem(const KeyPair& pair) {
  const std::shared_ptr<BIO> bio(BIO_new(BIO_s_mem()), BIO_free);
  PEM_write_bio_X509(bio.get(), pair.certificate.get());
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);
  return {text, static_cast<size_t>(size)};
}

// One TLS connection on loopback; answers one request with 200.
class TlsPeer {
 public:
  explicit TlsPeer(const KeyPair& identity)
      : listener_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)),
        context_(SSL_CTX_new(TLS_server_method()), SSL_CTX_free) {
    SSL_CTX_use_certificate(context_.get(), identity.certificate.get());
    SSL_CTX_use_PrivateKey(context_.get(), identity.key.get());
    port_ = listen_on_loopback(listener_);
    thread_ = std::thread([this] { serve(); });
  }
  ~TlsPeer() {
    ::shutdown(listener_.get(), SHUT_RDWR);
    if (thread_.joinable()) thread_.join();
  }
  TlsPeer(const TlsPeer&) = delete;
  TlsPeer& operator=(const TlsPeer&) = delete;

  Result<HttpResponse> ask(ClusterConfig config) const {
    config.server = "https://127.0.0.1:" + std::to_string(port_);
    auto made = make_transport(config);
    EXPECT_TRUE(made.ok());
    return (*made)->call({"GET", "/version", "", ""}, 5s, Cancel());
  }
  // Which name the client asked for.
  [[nodiscard]] const std::string& asked_for() {
    if (thread_.joinable()) thread_.join();
    return asked_for_;
  }

 private:
  void serve() {
    const UniqueFd connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!connection.valid()) return;
    const std::shared_ptr<SSL> tls(SSL_new(context_.get()), SSL_free);
    SSL_set_fd(tls.get(), connection.get());
    const bool agreed = SSL_accept(tls.get()) == 1;
    if (const char* name = SSL_get_servername(tls.get(), TLSEXT_NAMETYPE_host_name))
      asked_for_ = name;
    char request[4096];
    if (!agreed || SSL_read(tls.get(), request, sizeof request) <= 0) return;
    const std::string answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
    (void)SSL_write(tls.get(), answer.data(), static_cast<int>(answer.size()));
    SSL_shutdown(tls.get());
  }

  UniqueFd listener_;
  std::shared_ptr<SSL_CTX> context_;
  int port_ = 0;
  std::string asked_for_;
  std::thread thread_;
};

class TransportTlsTest : public ::testing::Test {
 protected:
  const KeyPair authority_ = make_certificate("authority", nullptr, "");
  const KeyPair by_address_ = make_certificate("server", &authority_, "IP:127.0.0.1");
  const KeyPair by_name_ = make_certificate("server", &authority_, "DNS:api.example");
  ClusterConfig trusting(const std::string& name = "") const {
    ClusterConfig config;
    config.authority_data = pem(authority_);
    config.tls_server_name = name;
    return config;
  }
};

TEST_F(TransportTlsTest, AServerOfTheAuthorityIsTrusted) {
  TlsPeer peer(by_address_);
  const auto response = peer.ask(trusting());
  ASSERT_TRUE(response.ok()) << response.error().to_string();
  EXPECT_EQ(response->status, 200);
}

TEST_F(TransportTlsTest, AServerOfAnotherAuthorityIsNot) {
  const KeyPair other = make_certificate("other", nullptr, "");
  TlsPeer peer(make_certificate("server", &other, "IP:127.0.0.1"));
  EXPECT_EQ(peer.ask(trusting()).err(), EACCES);
}

TEST_F(TransportTlsTest, ACertificateOfAnotherAddressIsNot) {
  TlsPeer peer(by_name_);
  EXPECT_EQ(peer.ask(trusting()).err(), EACCES);
}

TEST_F(TransportTlsTest, TlsServerNameIsWhatTheCertificateMustBeOf) {
  TlsPeer peer(by_name_);
  const auto response = peer.ask(trusting("api.example"));
  ASSERT_TRUE(response.ok()) << response.error().to_string();
  EXPECT_EQ(peer.asked_for(), "api.example");
}

TEST_F(TransportTlsTest, WithTlsServerNameTheAddressDoesNotCount) {
  TlsPeer peer(by_address_);
  EXPECT_EQ(peer.ask(trusting("api.example")).err(), EACCES);
}

TEST_F(TransportTlsTest, WithTlsServerNameTheAuthorityStillCounts) {
  const KeyPair other = make_certificate("other", nullptr, "");
  TlsPeer peer(make_certificate("server", &other, "DNS:api.example"));
  EXPECT_EQ(peer.ask(trusting("api.example")).err(), EACCES);
}

TEST(TransportTest, AServerThatIsNotThereIsSaid) {
  ClusterConfig config;
  config.server = "http://127.0.0.1:1";
  auto transport = make_transport(config);
  ASSERT_TRUE(transport.ok());
  const auto response = (*transport)->call({"GET", "/x", "", ""}, 5s, Cancel());
  EXPECT_EQ(response.err(), ENOTCONN);
  EXPECT_NE(response.error().to_string().find("http://127.0.0.1:1/x"), std::string::npos);
}

}  // namespace
}  // namespace ublk_operator::kube

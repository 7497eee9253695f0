// cpprestsdk stays in this file.
#include "common/kube/transport.h"

#include <cpprest/http_client.h>
#include <cpprest/interopstream.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

#include <atomic>
#include <boost/asio/ssl.hpp>
#include <cerrno>
#include <future>
#include <mutex>
#include <streambuf>

#include "common/base/files.h"
#include "common/base/strings.h"
#include "common/http/threads.h"

namespace ublk_operator::kube {

namespace http = web::http;

namespace {

constexpr size_t token_bytes_max = 64 << 10;
constexpr int status_ok = 200;

// Gives a request up once nothing was heard for as long as it is allowed. The library's own timeout
// does not do: it closes the connection, and the library may take that for the server's doing and
// send the request again, through the next connection, with all its time anew.
class Silence {
 public:
  Silence(std::chrono::seconds allowed, std::function<void()> give_up)
      : allowed_(allowed), give_up_(std::move(give_up)), heard_(Clock::now()) {}
  void heard() { heard_ = Clock::now(); }
  [[nodiscard]] bool passed() const { return passed_; }
  // Until the task has an outcome; being given up is one.
  template <typename T>
  void await(const pplx::task<T>& task) {
    const auto outcome = std::make_shared<std::promise<void>>();
    task.then([outcome](const pplx::task<T>&) { outcome->set_value(); });
    const auto known = outcome->get_future();
    while (!passed_ && known.wait_until(heard_.load() + allowed_) != std::future_status::ready) {
      if (Clock::now() < heard_.load() + allowed_) continue;
      passed_ = true;
      give_up_();
    }
    known.wait();
  }

 private:
  using Clock = std::chrono::steady_clock;
  const std::chrono::seconds allowed_;
  const std::function<void()> give_up_;
  std::atomic<Clock::time_point> heard_;
  bool passed_ = false;
};

// Where a body goes, as it comes: bounded, and cut into lines if somebody wants them.
class BodySink : public std::streambuf {
 public:
  // `give_up`: ends the request. A stream that takes no more bytes does not: the library would go
  // on to wait.
  BodySink(const std::function<bool(std::string_view)>* on_line, Silence& silence,
           std::function<void()> give_up)
      : on_line_(on_line), silence_(silence), give_up_(std::move(give_up)) {}
  void lines_wanted(bool wanted) {
    const std::scoped_lock lock(mutex_);
    lines_ = wanted && on_line_ != nullptr;
    if (lines_) (void)take_lines();
  }
  [[nodiscard]] bool too_large() const { return too_large_; }
  [[nodiscard]] bool refused() const { return refused_; }
  [[nodiscard]] std::string take() {
    const std::scoped_lock lock(mutex_);
    return std::move(kept_);
  }
  void last_line() {
    const std::scoped_lock lock(mutex_);
    if (lines_ && !kept_.empty() && !refused_) refused_ = !(*on_line_)(kept_);
    if (lines_) kept_.clear();
  }

 protected:
  std::streamsize xsputn(const char* data, std::streamsize count) override {
    silence_.heard();
    const std::scoped_lock lock(mutex_);
    kept_.append(data, static_cast<size_t>(count));
    const bool wanted = !lines_ || take_lines();
    if (kept_.size() > (lines_ ? Transport::line_bytes_max : Transport::body_bytes_max))
      too_large_ = true;
    if (wanted && !too_large_) return count;
    give_up_();
    return 0;
  }
  int_type overflow(int_type c) override {
    const char one = traits_type::to_char_type(c);
    return xsputn(&one, 1) == 1 ? c : traits_type::eof();
  }

 private:
  bool take_lines() {
    size_t begin = 0;
    for (size_t end = kept_.find('\n'); end != std::string::npos && !refused_;
         end = kept_.find('\n', begin)) {
      refused_ = !(*on_line_)(std::string_view(kept_).substr(begin, end - begin));
      begin = end + 1;
    }
    kept_.erase(0, begin);
    return !refused_;
  }

  const std::function<bool(std::string_view)>* on_line_;
  Silence& silence_;
  const std::function<void()> give_up_;
  std::mutex mutex_;
  std::string kept_;
  bool lines_ = false;  // until the status is known, what comes is kept
  bool refused_ = false;
  bool too_large_ = false;
};

// What the server's certificate must be of: the address, or tls-server-name instead. Checked by
// OpenSSL in place of the library, which knows the address only, and whose error does not say that
// it was the certificate.
class ServerIdentity {
 public:
  explicit ServerIdentity(std::string name) : name_(std::move(name)) {}

  // Lives longer than the context's connections.
  void require(SSL_CTX* context) {
    SSL_CTX_set_ex_data(context, index(), this);
    SSL_CTX_set_info_callback(context, ask);
    SSL_CTX_set_cert_verify_callback(context, verify, this);
  }
  // Why the last certificate was refused, since this was asked last; empty: none was.
  [[nodiscard]] std::string take_refusal() {
    const std::scoped_lock lock(mutex_);
    return std::exchange(refusal_, {});
  }

 private:
  static int index() {
    static const int at = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
    return at;
  }
  // Before the first message of the handshake is made. An address is not asked for (RFC 6066).
  static void ask(const SSL* connection, int where, int /*value*/) {
    if ((where & SSL_CB_HANDSHAKE_START) == 0) return;
    const auto* self = static_cast<const ServerIdentity*>(
        SSL_CTX_get_ex_data(SSL_get_SSL_CTX(connection), index()));
    const std::unique_ptr<ASN1_OCTET_STRING, void (*)(ASN1_OCTET_STRING*)> address(
        a2i_IPADDRESS(self->name_.c_str()), ASN1_OCTET_STRING_free);
    if (!address) SSL_set_tlsext_host_name(const_cast<SSL*>(connection), self->name_.c_str());
  }
  static int verify(X509_STORE_CTX* chain, void* argument) {
    auto* self = static_cast<ServerIdentity*>(argument);
    X509_STORE_CTX_set_verify_cb(chain, [](int good, X509_STORE_CTX*) { return good; });
    auto* wanted = X509_STORE_CTX_get0_param(chain);
    if (X509_VERIFY_PARAM_set1_ip_asc(wanted, self->name_.c_str()) != 1 &&
        X509_VERIFY_PARAM_set1_host(wanted, self->name_.data(), self->name_.size()) != 1)
      return 0;
    const int good = X509_verify_cert(chain);
    if (good != 1) {
      const std::scoped_lock lock(self->mutex_);
      self->refusal_ = "the server's certificate is refused, which must be of " + self->name_ +
                       " and by the configured authority: " +
                       X509_verify_cert_error_string(X509_STORE_CTX_get_error(chain));
    }
    return good;
  }

  const std::string name_;
  std::mutex mutex_;
  std::string refusal_;
};

// "10.96.0.1" of "https://10.96.0.1:443", "::1" of "https://[::1]:443".
std::string host_of(const std::string& server) {
  std::string host = web::uri(server).host();
  if (host.size() > 2 && host.front() == '[') host = host.substr(1, host.size() - 2);
  return host;
}

class CppRestTransport final : public Transport {
 public:
  explicit CppRestTransport(ClusterConfig config) : config_(std::move(config)) {}

  Result<void> prepare() {
    ublk_operator::http::start_threads();
    if (config_.authority_data.empty() && !config_.authority_file.empty()) {
      auto authority = read_file(config_.authority_file, 1 << 20);
      if (!authority) return std::move(authority).error();
      config_.authority_data = std::move(*authority);
    }
    if (!web::uri::validate(config_.server))
      return Error{EINVAL, "connect", config_.server, "not an address of an API server"};
    identity_ = std::make_unique<ServerIdentity>(
        config_.tls_server_name.empty() ? host_of(config_.server) : config_.tls_server_name);
    return {};
  }

  Result<HttpResponse> call(const HttpRequest& request, std::chrono::seconds silence,
                            const Cancel& cancel) override {
    return run(request, silence, cancel, nullptr);
  }

  Result<HttpResponse> stream(const HttpRequest& request, std::chrono::seconds silence,
                              const Cancel& cancel,
                              const std::function<bool(std::string_view)>& on_line) override {
    return run(request, silence, cancel, &on_line);
  }

 private:
  using Client = std::shared_ptr<http::client::http_client>;

  // It keeps idle connections for the next requests.
  Client client() {
    const std::scoped_lock lock(mutex_);
    if (client_) return client_;
    http::client::http_client_config config;
    config.set_timeout(std::chrono::minutes(5));  // never: see Silence
    config.set_ssl_context_callback([this](boost::asio::ssl::context& tls) { set_up(tls); });
    config.set_tlsext_sni_enabled(false);  // see ServerIdentity
    client_ = std::make_shared<http::client::http_client>(web::uri(config_.server), config);
    return client_;
  }
  // With its idle connections: where one went silent, as in a failover, the others have too.
  // Requests under way end as they will.
  void drop(const Client& client) {
    const std::scoped_lock lock(mutex_);
    if (client_ == client) client_.reset();
  }

  void set_up(boost::asio::ssl::context& tls) const {
    SSL_CTX_set_min_proto_version(tls.native_handle(), TLS1_2_VERSION);
    if (!config_.authority_data.empty()) {
      // The library put the machine's authorities there, which have no say in this.
      SSL_CTX_set_cert_store(tls.native_handle(), X509_STORE_new());
      tls.add_certificate_authority(boost::asio::buffer(config_.authority_data));
    }
    identity_->require(tls.native_handle());
    if (!config_.client_certificate.empty()) {
      tls.use_certificate_chain(boost::asio::buffer(config_.client_certificate));
      tls.use_private_key(boost::asio::buffer(config_.client_key), boost::asio::ssl::context::pem);
    }
  }

  Result<std::string> token() const {
    if (config_.token_file.empty()) return config_.token;
    auto text = read_file(config_.token_file, token_bytes_max);
    if (!text) return std::move(text).error();
    return std::string(trim(*text));
  }

  Result<HttpResponse> run(const HttpRequest& request, std::chrono::seconds silence_allowed,
                           const Cancel& cancel,
                           const std::function<bool(std::string_view)>* on_line) {
    const auto fail = [&](int err, const std::string& detail) {
      return Error{err, "http_" + request.method, config_.server + request.path, detail};
    };
    auto bearer = token();
    if (!bearer) return std::move(bearer).error();
    const pplx::cancellation_token_source given_up;
    const auto linked = cancel.on_cancel([given_up] { given_up.cancel(); });
    Silence silence(silence_allowed, [&given_up] { given_up.cancel(); });
    BodySink sink(on_line, silence, [&given_up] { given_up.cancel(); });
    std::ostream out(&sink);
    const Client through = client();
    try {
      http::http_request message(request.method);
      message.set_request_uri(web::uri(request.path));
      message.headers().add("Accept", "application/json");
      message.headers().add("User-Agent", "ublk-operator");
      if (!bearer->empty()) message.headers().add("Authorization", "Bearer " + *bearer);
      if (!request.content_type.empty()) message.set_body(request.body, request.content_type);
      message.set_response_stream(concurrency::streams::stdio_ostream<uint8_t>(out));
      const auto asked = through->request(message, given_up.get_token());
      silence.await(asked);
      auto response = asked.get();
      silence.heard();
      sink.lines_wanted(response.status_code() == status_ok);
      if (sink.refused()) given_up.cancel();
      const auto ready = response.content_ready();
      silence.await(ready);
      ready.wait();
      HttpResponse answer;
      answer.status = response.status_code();
      sink.last_line();
      answer.body = sink.take();
      return answer;
    } catch (const std::exception& problem) {
      if (sink.refused()) return HttpResponse{status_ok, ""};
      if (sink.too_large()) return fail(EFBIG, "the answer is larger than this program takes");
      if (cancel.canceled()) return fail(ECANCELED, "");
      if (silence.passed()) {
        drop(through);
        return fail(ETIMEDOUT, "nothing was heard from the server for " +
                                   std::to_string(silence_allowed.count()) + " s");
      }
      if (const std::string refusal = identity_->take_refusal(); !refusal.empty())
        return fail(EACCES, refusal);
      return fail(errno_of(problem), problem.what());
    }
  }

  static int errno_of(const std::exception& problem) {
    return dynamic_cast<const http::http_exception*>(&problem) != nullptr ? ENOTCONN : EIO;
  }

  ClusterConfig config_;
  std::unique_ptr<ServerIdentity> identity_;
  std::mutex mutex_;
  Client client_;
};

}  // namespace

Result<std::unique_ptr<Transport>> make_transport(const ClusterConfig& config) {
  auto transport = std::make_unique<CppRestTransport>(config);
  if (auto prepared = transport->prepare(); !prepared) return std::move(prepared).error();
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace ublk_operator::kube

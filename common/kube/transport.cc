// cpprestsdk stays in this file.
#include "common/kube/transport.h"

#include <cpprest/http_client.h>
#include <cpprest/interopstream.h>
#include <openssl/ssl.h>
#include <pplx/threadpool.h>

#include <algorithm>
#include <boost/asio/ssl.hpp>
#include <cerrno>
#include <mutex>
#include <streambuf>

#include "common/base/files.h"
#include "common/base/strings.h"

namespace ublk_operator::kube {

namespace http = web::http;

struct Cancel::Source {
  pplx::cancellation_token_source tokens;
};

Cancel::Cancel() : source_(std::make_unique<Source>()) {}
Cancel::~Cancel() = default;
void Cancel::cancel() { source_->tokens.cancel(); }
bool Cancel::canceled() const { return source_->tokens.get_token().is_canceled(); }

namespace {

constexpr size_t threads = 4;  // cpprestsdk starts 40 unless told otherwise
constexpr size_t token_bytes_max = 64 << 10;
constexpr int64_t retry_after_max = 60;
constexpr int status_ok = 200;

// Where a body goes, as it comes: bounded, and cut into lines if somebody wants them.
class BodySink : public std::streambuf {
 public:
  // `give_up`: ends the request. A stream that takes no more bytes does not: the library would go on
  // to wait for its timeout.
  BodySink(const std::function<bool(std::string_view)>* on_line, std::function<void()> give_up)
      : on_line_(on_line), give_up_(std::move(give_up)) {}
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
  const std::function<void()> give_up_;
  std::mutex mutex_;
  std::string kept_;
  bool lines_ = false;  // until the status is known, what comes is kept
  bool refused_ = false;
  bool too_large_ = false;
};

// While it lives, `cancel` ends `other` too. (A linked source of the library would leave something
// behind in a Cancel for each call.)
class LinkedCancel {
 public:
  LinkedCancel(const Cancel& cancel, const pplx::cancellation_token_source& other)
      : token_(cancel.source().tokens.get_token()),
        registration_(token_.register_callback([other] { other.cancel(); })) {}
  ~LinkedCancel() { token_.deregister_callback(registration_); }
  LinkedCancel(const LinkedCancel&) = delete;
  LinkedCancel& operator=(const LinkedCancel&) = delete;

 private:
  pplx::cancellation_token token_;
  pplx::cancellation_token_registration registration_;
};

class CppRestTransport final : public Transport {
 public:
  explicit CppRestTransport(ClusterConfig config) : config_(std::move(config)) {}

  Result<void> prepare() {
    static std::once_flag once;
    std::call_once(once, [] { crossplat::threadpool::initialize_with_threads(threads); });
    if (config_.authority_data.empty() && !config_.authority_file.empty()) {
      auto authority = read_file(config_.authority_file, 1 << 20);
      if (!authority) return std::move(authority).error();
      config_.authority_data = std::move(*authority);
    }
    if (!web::uri::validate(config_.server))
      return Error{EINVAL, "connect", config_.server, "not an address of an API server"};
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
  // A client keeps its connections; what was idle for one silence is tried again by the caller.
  std::shared_ptr<http::client::http_client> client(std::chrono::seconds silence) {
    const std::scoped_lock lock(mutex_);
    auto& known = clients_[silence];
    if (known) return known;
    http::client::http_client_config config;
    config.set_timeout(silence);  // of silence: it starts anew with whatever comes
    config.set_ssl_context_callback([this](boost::asio::ssl::context& tls) { set_up(tls); });
    known = std::make_shared<http::client::http_client>(web::uri(config_.server), config);
    return known;
  }

  void set_up(boost::asio::ssl::context& tls) const {
    SSL_CTX_set_min_proto_version(tls.native_handle(), TLS1_2_VERSION);
    if (!config_.authority_data.empty())
      tls.add_certificate_authority(boost::asio::buffer(config_.authority_data));
    else
      tls.set_default_verify_paths();
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

  Result<HttpResponse> run(const HttpRequest& request, std::chrono::seconds silence,
                           const Cancel& cancel,
                           const std::function<bool(std::string_view)>* on_line) {
    const auto fail = [&](int err, const std::string& detail) {
      return Error{err, "http_" + request.method, config_.server + request.path, detail};
    };
    auto bearer = token();
    if (!bearer) return std::move(bearer).error();
    const pplx::cancellation_token_source given_up;
    const LinkedCancel linked(cancel, given_up);
    BodySink sink(on_line, [&given_up] { given_up.cancel(); });
    std::ostream out(&sink);
    try {
      http::http_request message(request.method);
      message.set_request_uri(web::uri(request.path));
      message.headers().add("Accept", "application/json");
      message.headers().add("User-Agent", "ublk-operator");
      if (!bearer->empty()) message.headers().add("Authorization", "Bearer " + *bearer);
      if (!request.content_type.empty()) message.set_body(request.body, request.content_type);
      message.set_response_stream(concurrency::streams::stdio_ostream<uint8_t>(out));
      auto response = client(silence)->request(message, given_up.get_token()).get();
      sink.lines_wanted(response.status_code() == status_ok);
      if (sink.refused()) given_up.cancel();
      response.content_ready().wait();
      HttpResponse answer;
      answer.status = response.status_code();
      int64_t seconds = 0;
      if (response.headers().match("Retry-After", seconds))
        answer.retry_after = std::chrono::seconds(std::clamp<int64_t>(seconds, 0, retry_after_max));
      sink.last_line();
      answer.body = sink.take();
      return answer;
    } catch (const std::exception& problem) {
      if (sink.refused()) return HttpResponse{status_ok, "", std::chrono::seconds(0)};
      if (sink.too_large()) return fail(EFBIG, "the answer is larger than this program takes");
      if (cancel.canceled()) return fail(ECANCELED, "");
      return fail(errno_of(problem), problem.what());
    }
  }

  static int errno_of(const std::exception& problem) {
    const auto* known = dynamic_cast<const http::http_exception*>(&problem);
    if (known == nullptr) return EIO;
    if (known->error_code() == std::make_error_condition(std::errc::timed_out)) return ETIMEDOUT;
    const std::string what = known->what();
    if (what.find("certificate") != std::string::npos) return EACCES;
    return ENOTCONN;
  }

  ClusterConfig config_;
  std::mutex mutex_;
  std::map<std::chrono::seconds, std::shared_ptr<http::client::http_client>> clients_;
};

}  // namespace

Result<std::unique_ptr<Transport>> make_transport(const ClusterConfig& config) {
  auto transport = std::make_unique<CppRestTransport>(config);
  if (auto prepared = transport->prepare(); !prepared) return std::move(prepared).error();
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace ublk_operator::kube

#include "common/kube/reflector.h"

namespace ublk_operator::kube {

namespace {
using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds list_silence{30};
constexpr std::chrono::seconds watch_grace{10};
}  // namespace

Reflector::Reflector(std::shared_ptr<Transport> transport, Resource resource, std::string selector,
                     Informer::Options options, Informer::Listener listener,
                     std::function<void()> on_synced, Logger log)
    : transport_(std::move(transport)),
      resource_(std::move(resource)),
      selector_(std::move(selector)),
      on_synced_(std::move(on_synced)),
      log_(std::move(log)),
      heard_(Clock::now().time_since_epoch().count()),
      informer_(options, std::move(listener)) {}

Reflector::~Reflector() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  stopping_changed_.notify_all();
  cancel_.cancel();
  if (thread_.joinable()) thread_.join();
}

void Reflector::start() {
  thread_ = std::thread([this] { run(); });
}

std::chrono::milliseconds Reflector::heard_before() const {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
      Clock::now() - Clock::time_point(Clock::duration(heard_.load())));
}

Informer::Counters Reflector::counters() const {
  const std::scoped_lock lock(mutex_);
  return counters_;
}

void Reflector::heard() { heard_ = Clock::now().time_since_epoch().count(); }

void Reflector::run() {
  for (;;) {
    {
      const std::scoped_lock lock(mutex_);
      if (stopping_) return;
    }
    const auto step = informer_.next(std::uniform_real_distribution<double>(0, 1)(random_));
    publish_counters();
    if (const auto* to_list = std::get_if<Informer::List>(&step))
      list(*to_list);
    else if (const auto* to_watch = std::get_if<Informer::Watch>(&step))
      watch(*to_watch);
    else
      wait(std::get<Informer::Wait>(step));
    publish_counters();
    if (informer_.synced() && !told_synced_) {
      told_synced_ = true;
      on_synced_();
    }
  }
}

void Reflector::publish_counters() {
  const std::scoped_lock lock(mutex_);
  counters_ = informer_.counters();
}

std::string Reflector::query(const std::string& rest) const {
  return resource_.path() + "?" + (selector_.empty() ? rest : selector_ + "&" + rest);
}

void Reflector::say(const Result<void>& how) {
  bool was_failing = false;
  {
    const std::scoped_lock lock(mutex_);
    if (stopping_) return;
    was_failing = std::exchange(failing_, !how.ok());
  }
  if (!how && !was_failing)
    log_->warn("resource={} operation=watch error=\"{}\" retry=true", resource_.plural,
               how.error().to_string());
  if (how.ok() && was_failing)
    log_->info("resource={} operation=watch the API server answers again", resource_.plural);
}

void Reflector::list(const Informer::List& step) {
  std::string rest = "limit=" + std::to_string(step.limit);
  if (!step.continue_token.empty()) rest += "&continue=" + query_escape(step.continue_token);
  auto response = transport_->call({"GET", query(rest), "", ""}, list_silence, cancel_);
  auto page = [&]() -> Result<nlohmann::json> {
    if (!response) return response.error();
    if (response->status != 200) return status_error(*response, "list", resource_.plural);
    auto body = nlohmann::json::parse(response->body, nullptr, false);
    if (body.is_discarded()) return Error{EIO, "list", resource_.plural, "the answer is not JSON"};
    return body;
  }();
  if (page) heard();
  say(page ? Result<void>() : Result<void>(page.error()));
  informer_.listed(std::move(page));
}

void Reflector::watch(const Informer::Watch& step) {
  const auto begun = Clock::now();
  const std::string rest =
      "watch=1&allowWatchBookmarks=true&resourceVersion=" + query_escape(step.resource_version) +
      "&timeoutSeconds=" + std::to_string(step.timeout.count());
  auto response =
      transport_->stream({"GET", query(rest), "", ""}, step.timeout + watch_grace, cancel_,
                         [this](std::string_view line) {
                           if (line.empty()) return true;
                           auto event = nlohmann::json::parse(line, nullptr, false);
                           heard();
                           return event.is_object() && informer_.event(std::move(event));
                         });
  Result<void> how;
  if (!response)
    how = response.error();
  else if (response->status != 200)
    how = status_error(*response, "watch", resource_.plural);
  if (how) heard();  // it ended the watch at its time: also a word
  say(how);
  informer_.watch_ended(
      how, std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun));
}

void Reflector::wait(const Informer::Wait& step) {
  std::unique_lock lock(mutex_);
  stopping_changed_.wait_for(lock, step.time, [this] { return stopping_; });
  informer_.waited();
}

}  // namespace ublk_operator::kube

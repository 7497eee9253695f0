#include "common/kube/informer.h"

#include <algorithm>

namespace ublk_operator::kube {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds useless_watch{1000};
constexpr unsigned doublings_max = 16;
constexpr int status_gone = 410;

std::string text_at(const nlohmann::json& object, const char* parent, const char* field) {
  const auto at = object.find(parent);
  return at != object.end() && at->is_object() ? at->value(field, "") : std::string();
}

}  // namespace

Informer::Informer(Options options, Listener listener)
    : options_(options), listener_(std::move(listener)) {}

Informer::Step Informer::next(double random) {
  if (must_wait_) {
    const unsigned doublings = std::min(failures_ > 0 ? failures_ - 1 : 0, doublings_max);
    const milliseconds full =
        std::min(options_.back_off_initial * (1U << doublings), options_.back_off_max);
    // Half of it at least: all clients of a server that comes back would otherwise ask at once.
    return Wait{std::chrono::duration_cast<milliseconds>(full * (0.5 + random / 2))};
  }
  if (resource_version_.empty()) {
    if (continue_token_.empty()) ++counters_.lists;
    return List{continue_token_, options_.page_limit};
  }
  ++counters_.watches;
  expired_ = false;
  const auto spread = static_cast<double>((options_.watch_max - options_.watch_min).count());
  return Watch{resource_version_,
               options_.watch_min + std::chrono::seconds(static_cast<int64_t>(random * spread))};
}

void Informer::waited() { must_wait_ = false; }

void Informer::list_again() {
  resource_version_.clear();
  continue_token_.clear();
  pages_.clear();
}

void Informer::failed() {
  ++failures_;
  ++counters_.failures;
  must_wait_ = true;
}

void Informer::listed(const Result<nlohmann::json>& page) {
  if (!page) {
    if (page.err() == ESTALE) {
      ++counters_.expired;
      list_again();  // the continue token is too old
    }
    return failed();
  }
  const auto items = page->find("items");
  const std::string version = text_at(*page, "metadata", "resourceVersion");
  if (items == page->end() || !items->is_array() || version.empty()) return failed();
  for (const auto& object : *items) {
    const std::string name = text_at(object, "metadata", "name");
    if (!name.empty()) pages_[name] = object;
  }
  list_version_ = version;
  continue_token_ = text_at(*page, "metadata", "continue");
  failures_ = 0;
  if (!continue_token_.empty()) return;
  for (const auto& [name, object] : pages_) put(object);
  for (auto it = objects_.begin(); it != objects_.end();) {
    const std::string name = it->first;
    ++it;
    if (!pages_.contains(name)) drop(name);
  }
  pages_.clear();
  resource_version_ = list_version_;
  synced_ = true;
}

bool Informer::event(const nlohmann::json& event) {
  const auto object = event.find("object");
  const std::string type = event.value("type", "");
  if (object == event.end() || !object->is_object()) {
    expired_ = true;
    return false;
  }
  if (type == "ERROR") {
    // A Status. Whatever it says, this watch is over; only 410 says that its past is lost.
    if (object->value("code", 0) == status_gone) {
      ++counters_.expired;
      list_again();
    }
    expired_ = true;
    return false;
  }
  ++counters_.events;
  if (type == "ADDED" || type == "MODIFIED") {
    put(*object);
  } else if (type == "DELETED") {
    drop(text_at(*object, "metadata", "name"));
  } else if (type != "BOOKMARK") {
    expired_ = true;
    return false;
  }
  const std::string version = text_at(*object, "metadata", "resourceVersion");
  if (!version.empty()) resource_version_ = version;
  failures_ = 0;
  return true;
}

void Informer::watch_ended(const Result<void>& how, milliseconds lasted) {
  if (!how && how.err() == ESTALE) {
    ++counters_.expired;
    list_again();
    // A first expiry is nobody's fault; a server that expires every fresh version is.
    if (lasted >= useless_watch) return;
  }
  if (!how || expired_ || lasted < useless_watch) failed();
}

void Informer::put(const nlohmann::json& object) {
  const std::string name = text_at(object, "metadata", "name");
  if (name.empty()) return;
  auto& known = objects_[name];
  if (!known.is_null() && known == object) return;
  known = object;
  listener_(name, &known);
}

void Informer::drop(const std::string& name) {
  if (objects_.erase(name) > 0) listener_(name, nullptr);
}

}  // namespace ublk_operator::kube

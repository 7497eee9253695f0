#include "common/kube/informer.h"

#include <algorithm>

namespace ublk_operator::kube {

namespace {

using std::chrono::milliseconds;

constexpr milliseconds useless_watch{1000};
constexpr unsigned doublings_max = 16;
constexpr int status_gone = 410;

// Objects come from a server, so a field may be of any type.
std::string text(const nlohmann::json& object, const char* field) {
  if (!object.is_object()) return "";
  const auto at = object.find(field);
  return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
}

std::string text_at(const nlohmann::json& object, const char* parent, const char* field) {
  if (!object.is_object()) return "";
  const auto at = object.find(parent);
  return at != object.end() ? text(*at, field) : std::string();
}

bool says_gone(const nlohmann::json& status) {
  const auto code = status.find("code");
  return code != status.end() && code->is_number_integer() && *code == status_gone;
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
  const auto shorter = static_cast<int64_t>((parted_ ? 0 : random) * spread);
  return Watch{resource_version_, options_.watch_max - std::chrono::seconds(shorter)};
}

void Informer::waited() { must_wait_ = false; }

void Informer::list_again() {
  resource_version_.clear();
  continue_token_.clear();
  listed_.clear();
  parted_ = false;
}

void Informer::failed() {
  ++failures_;
  parted_ = false;
  ++counters_.failures;
  must_wait_ = true;
}

void Informer::listed(Result<nlohmann::json> page) {
  if (!page) {
    if (page.err() == ESTALE) {
      ++counters_.expired;
      list_again();  // the continue token is too old
    }
    return failed();
  }
  const auto items = page->is_object() ? page->find("items") : page->end();
  const std::string version = text_at(*page, "metadata", "resourceVersion");
  if (items == page->end() || !items->is_array() || version.empty()) return failed();
  for (auto& object : *items) {
    if (!object.is_object()) continue;
    listed_.insert(text_at(object, "metadata", "name"));
    put(std::move(object));
  }
  list_version_ = version;
  continue_token_ = text_at(*page, "metadata", "continue");
  failures_ = 0;
  if (!continue_token_.empty()) return;
  for (auto it = versions_.begin(); it != versions_.end();) {
    const std::string name = it->first;
    ++it;
    if (!listed_.contains(name)) drop(name);
  }
  listed_.clear();
  resource_version_ = list_version_;
  synced_ = true;
}

bool Informer::event(nlohmann::json event) {
  const auto object = event.find("object");
  const std::string type = text(event, "type");
  if (object == event.end() || !object->is_object()) {
    expired_ = true;
    return false;
  }
  if (type == "ERROR") {
    // A Status. Whatever it says, this watch is over; only 410 says that its past is lost.
    if (says_gone(*object)) {
      ++counters_.expired;
      list_again();
    }
    expired_ = true;
    return false;
  }
  ++counters_.events;
  const std::string version = text_at(*object, "metadata", "resourceVersion");
  if (type == "ADDED" || type == "MODIFIED") {
    put(std::move(*object));
  } else if (type == "DELETED") {
    drop(text_at(*object, "metadata", "name"));
  } else if (type != "BOOKMARK") {
    expired_ = true;
    return false;
  }
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
  if (!how || expired_ || lasted < useless_watch) return failed();
  parted_ = true;
}

void Informer::put(nlohmann::json object) {
  const std::string name = text_at(object, "metadata", "name");
  if (name.empty()) return;
  const std::string version = text_at(object, "metadata", "resourceVersion");
  auto& known = versions_[name];
  if (!version.empty() && known == version) return;
  known = version;
  object["metadata"].erase("managedFields");
  listener_(name, &object);
}

void Informer::drop(const std::string& name) {
  if (versions_.erase(name) > 0) listener_(name, nullptr);
}

}  // namespace ublk_operator::kube

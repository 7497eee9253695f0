#include "common/kube/fake_api_server.h"

#include <algorithm>
#include <cerrno>

namespace ublk_operator::kube {

namespace {

using nlohmann::json;

constexpr auto wait_max = std::chrono::seconds(20);

HttpResponse reply(int status, const json& body) { return {status, body.dump()}; }

HttpResponse refuse(int status, const std::string& reason, const std::string& message) {
  return reply(status, {{"kind", "Status"},
                        {"status", "Failure"},
                        {"reason", reason},
                        {"message", message},
                        {"code", status}});
}

std::string text(const json& object, const char* field) {
  return object.is_object() && object.contains(field) && object[field].is_string()
             ? object[field].get<std::string>()
             : std::string();
}

std::string parameter(const std::string& path, const std::string& name) {
  const size_t at = path.find(name + "=");
  if (at == std::string::npos) return "";
  const size_t begin = at + name.size() + 1;
  return path.substr(begin, path.find('&', begin) - begin);
}

// "/apis/G/V/PLURAL/NAME/status" -> its object's path, "status".
std::pair<std::string, std::string> split_subresource(const std::string& path) {
  constexpr std::string_view suffix = "/status";
  if (path.size() > suffix.size() && path.ends_with(suffix))
    return {path.substr(0, path.size() - suffix.size()), "status"};
  return {path, ""};
}

void merge_conditions(json& have, const json& wanted) {
  if (!have.is_array()) have = json::array();
  for (const auto& condition : wanted) {
    const auto same = std::find_if(have.begin(), have.end(), [&](const json& one) {
      return text(one, "type") == text(condition, "type");
    });
    if (same == have.end())
      have.push_back(condition);
    else
      *same = condition;
  }
}

void merge_applied(json& have, const json& wanted) {  // NOLINT(misc-no-recursion)
  if (!have.is_object()) have = json::object();
  for (const auto& [key, value] : wanted.items()) {
    if (key == "conditions")
      merge_conditions(have[key], value);
    else if (value.is_object())
      merge_applied(have[key], value);
    else
      have[key] = value;
  }
}

bool is_collection_of(const std::string& collection, const std::string& path) {
  return path.size() > collection.size() + 1 && path.starts_with(collection) &&
         path[collection.size()] == '/' &&
         path.find('/', collection.size() + 1) == std::string::npos;
}

}  // namespace

Result<HttpResponse> FakeApiServer::call(const HttpRequest& request,
                                         std::chrono::seconds /*silence*/, const Cancel& cancel) {
  if (cancel.canceled()) return Error{ECANCELED, "http", request.path, ""};
  Interference interference;
  {
    const std::scoped_lock lock(mutex_);
    interference = interference_;
    if (request.method != "GET")
      writes_.push_back(request.method + " " + request.path.substr(0, request.path.find('?')));
  }
  changed_.notify_all();
  if (interference)
    if (auto other = interference(request)) return *other;
  const std::scoped_lock lock(mutex_);
  changed_.notify_all();
  return answer(request);
}

HttpResponse FakeApiServer::answer(const HttpRequest& request) {
  const std::string whole = request.path.substr(0, request.path.find('?'));
  const auto [path, subresource] = split_subresource(whole);
  if (request.method == "POST") return create(path, json::parse(request.body));
  if (request.method == "PUT" || request.method == "PATCH")
    return change(path, subresource, request);
  if (request.method == "DELETE") return remove(path);
  if (const auto known = objects_.find(path); known != objects_.end())
    return reply(200, known->second);
  return request.path.find('?') != std::string::npos ? list(path)
                                                     : refuse(404, "NotFound", path + " not found");
}

HttpResponse FakeApiServer::list(const std::string& path) {
  json items = json::array();
  for (const auto& [at, object] : objects_)
    if (is_collection_of(path, at)) items.push_back(object);
  return reply(200, {{"kind", "List"},
                     {"metadata", {{"resourceVersion", std::to_string(version_)}}},
                     {"items", std::move(items)}});
}

HttpResponse FakeApiServer::create(const std::string& path, json object) {
  const std::string name = text(object["metadata"], "name");
  const std::string at = path + "/" + name;
  if (objects_.contains(at)) return refuse(409, "AlreadyExists", at + " already exists");
  object["metadata"]["generation"] = 1;
  store(at, std::move(object), "ADDED");
  return reply(201, objects_[at]);
}

HttpResponse FakeApiServer::change(const std::string& path, const std::string& subresource,
                                   const HttpRequest& request) {
  const json wanted = json::parse(request.body);
  const auto known = objects_.find(path);
  const bool applied = request.content_type == "application/apply-patch+yaml";
  if (known == objects_.end()) {
    if (applied && subresource.empty()) return create(path.substr(0, path.rfind('/')), wanted);
    return refuse(404, "NotFound", path + " not found");
  }
  const json& have = known->second;
  const json metadata =
      wanted.is_object() ? wanted.value("metadata", json::object()) : json::object();
  const std::string version = text(metadata, "resourceVersion");
  if (!version.empty() && version != text(have["metadata"], "resourceVersion"))
    return refuse(409, "Conflict", "the object has been modified");
  json next = have;
  if (request.method == "PUT")
    next = wanted;
  else if (applied)
    merge_applied(next, wanted);
  else if (request.content_type == "application/json-patch+json")
    try {
      next = have.patch(wanted);
    } catch (const json::exception& error) {
      return refuse(422, "", error.what());
    }
  else
    next.merge_patch(wanted);
  if (subresource == "status") {  // nothing else changes by it
    json kept = have;
    if (next.contains("status")) kept["status"] = next["status"];
    next = std::move(kept);
  } else if (have.contains("status") && path.find("ublk.dev") != std::string::npos) {
    next["status"] = have["status"];
  }
  for (const char* fixed : {"uid", "resourceVersion", "generation", "deletionTimestamp"})
    if (have["metadata"].contains(fixed)) next["metadata"][fixed] = have["metadata"][fixed];
  if (next == have) return reply(200, have);
  if (next.value("spec", json()) != have.value("spec", json()))
    next["metadata"]["generation"] = have["metadata"].value("generation", 0) + 1;
  const auto& meta = next["metadata"];
  if (meta.contains("deletionTimestamp") &&
      (!meta.contains("finalizers") || meta["finalizers"].empty())) {
    objects_[path] = next;
    drop(path);
    return reply(200, next);
  }
  store(path, std::move(next), "MODIFIED");
  return reply(200, objects_[path]);
}

HttpResponse FakeApiServer::remove(const std::string& path) {
  const auto known = objects_.find(path);
  if (known == objects_.end()) return refuse(404, "NotFound", path + " not found");
  json object = known->second;
  auto& metadata = object["metadata"];
  if (!metadata.contains("finalizers") || metadata["finalizers"].empty()) {
    drop(path);
    return reply(200, {{"kind", "Status"}, {"status", "Success"}});
  }
  if (!metadata.contains("deletionTimestamp")) {
    metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z";
    store(path, object, "MODIFIED");
  }
  return reply(200, objects_[path]);
}

void FakeApiServer::store(const std::string& path, json object, const char* type) {
  auto& metadata = object["metadata"];
  metadata["resourceVersion"] = std::to_string(++version_);
  if (!metadata.contains("uid")) metadata["uid"] = "uid-" + std::to_string(++uids_);
  changes_.push_back({version_, type, path, object});
  objects_[path] = std::move(object);
  changed_.notify_all();
}

void FakeApiServer::drop(const std::string& path) {
  json object = std::move(objects_[path]);
  objects_.erase(path);
  object["metadata"]["resourceVersion"] = std::to_string(++version_);
  changes_.push_back({version_, "DELETED", path, std::move(object)});
  changed_.notify_all();
}

Result<HttpResponse> FakeApiServer::stream(
    const HttpRequest& request, std::chrono::seconds /*silence*/, const Cancel& cancel,
    const std::function<bool(std::string_view line)>& on_line) {
  bool canceled = false;  // guarded by mutex_
  const auto link = cancel.on_cancel([this, &canceled] {
    const std::scoped_lock lock(mutex_);
    canceled = true;
    changed_.notify_all();
  });
  const std::string path = request.path.substr(0, request.path.find('?'));
  uint64_t seen = std::stoull("0" + parameter(request.path, "resourceVersion"));
  std::unique_lock lock(mutex_);
  const uint64_t mine = generation_;
  if (seen < forgotten_) return refuse(410, "Expired", "too old resource version");
  for (;;) {
    std::vector<std::string> lines;
    for (const auto& change : changes_)
      if (change.version > seen && is_collection_of(path, change.path))
        lines.push_back(json{{"type", change.type}, {"object", change.object}}.dump());
    if (!changes_.empty()) seen = std::max(seen, changes_.back().version);
    lock.unlock();
    for (const auto& line : lines)
      if (!on_line(line)) return reply(200, {});
    lock.lock();
    if (canceled) return Error{ECANCELED, "http", request.path, ""};
    if (generation_ != mine) return reply(200, {});
    if (!changes_.empty() && changes_.back().version > seen) continue;
    changed_.wait(lock);
  }
}

void FakeApiServer::put(const std::string& path, json object) {
  const std::scoped_lock lock(mutex_);
  const auto known = objects_.find(path);
  object["metadata"]["name"] = path.substr(path.rfind('/') + 1);
  if (known != objects_.end() && !object["metadata"].contains("uid"))
    object["metadata"]["uid"] = known->second["metadata"]["uid"];
  store(path, std::move(object), known == objects_.end() ? "ADDED" : "MODIFIED");
}

void FakeApiServer::erase(const std::string& path) {
  const std::scoped_lock lock(mutex_);
  if (objects_.contains(path)) drop(path);
}

json FakeApiServer::at(const std::string& path) const {
  const std::scoped_lock lock(mutex_);
  const auto known = objects_.find(path);
  return known == objects_.end() ? json() : known->second;
}

std::vector<json> FakeApiServer::below(const std::string& path) const {
  const std::scoped_lock lock(mutex_);
  std::vector<json> found;
  for (const auto& [at, object] : objects_)
    if (at.starts_with(path + "/")) found.push_back(object);
  return found;
}

void FakeApiServer::break_watches(bool forget) {
  const std::scoped_lock lock(mutex_);
  ++generation_;
  if (forget) {
    forgotten_ = ++version_;
    changes_.clear();
  }
  changed_.notify_all();
}

void FakeApiServer::interfere(Interference interference) {
  const std::scoped_lock lock(mutex_);
  interference_ = std::move(interference);
}

std::vector<std::string> FakeApiServer::writes() const {
  const std::scoped_lock lock(mutex_);
  return writes_;
}

bool FakeApiServer::wait_until(const std::function<bool()>& holds) const {
  const auto end = std::chrono::steady_clock::now() + wait_max;
  for (;;) {
    const uint64_t before = [&] {
      const std::scoped_lock lock(mutex_);
      return version_ + writes_.size();
    }();
    if (holds()) return true;
    {
      std::unique_lock lock(mutex_);
      if (changed_.wait_until(lock, end, [&] { return version_ + writes_.size() != before; }))
        continue;
    }
    return holds();
  }
}

}  // namespace ublk_operator::kube

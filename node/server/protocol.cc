#include "node/server/protocol.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>

#include "common/base/limits.h"

namespace ublk_operator {
namespace {

using nlohmann::json;

// Reads the fields of one object and keeps the first thing that is wrong with it.
class Fields {
 public:
  Fields(const json& object, const char* operation) : object_(object), operation_(operation) {
    if (!object.is_object()) fail(EPROTO, "message", "not an object");
  }

  void type(const char* expected) {
    if (const json* field = find("type");
        field != nullptr &&
        (!field->is_string() || field->get_ref<const std::string&>() != expected))
      fail(EPROTO, "type", std::string("expected \"") + expected + "\"");
  }

  template <typename T>
  void number(const char* key, T& target) {
    const json* field = find(key);
    if (field == nullptr) return;
    std::optional<uint64_t> value;
    if (field->is_number_unsigned())
      value = field->get<uint64_t>();
    else if (field->is_number_integer() && field->get<int64_t>() >= 0)
      value = static_cast<uint64_t>(field->get<int64_t>());
    if (!value) return fail(EPROTO, key, "not a whole number of 0 or more");
    if (*value > std::numeric_limits<T>::max()) return fail(EINVAL, key, "out of range");
    target = static_cast<T>(*value);
  }
  // All of them, and no more.
  template <size_t N>
  void numbers(const char* key, std::array<uint64_t, N>& target) {
    const json* field = array(key);
    if (field == nullptr) return;
    check(field->size() == N, key, "another number of them is expected");
    for (size_t i = 0; i < std::min(N, field->size()); ++i) {
      if (!(*field)[i].is_number_unsigned()) return fail(EPROTO, key, "not whole numbers");
      target[i] = (*field)[i].get<uint64_t>();
    }
  }
  void boolean(const char* key, bool& target) {
    const json* field = find(key);
    if (field == nullptr) return;
    if (!field->is_boolean()) return fail(EPROTO, key, "not true or false");
    target = field->get<bool>();
  }
  void string(const char* key, std::string& target) {
    const json* field = find(key);
    if (field == nullptr) return;
    if (!field->is_string()) return fail(EPROTO, key, "not a string");
    target = field->get<std::string>();
  }
  // Null, with the failure kept, when it is missing or of another type.
  const json* object(const char* key) { return typed(key, &json::is_object, "not an object"); }
  const json* array(const char* key) { return typed(key, &json::is_array, "not an array"); }

  void check(bool holds, const char* key, const char* expected) {
    if (!holds) fail(EINVAL, key, expected);
  }
  void fail(int err, const char* key, std::string detail) {
    if (!error_) error_ = Error{err, operation_, key, std::move(detail)};
  }
  void fail(const Error& error) {
    if (!error_) error_ = error;
  }

  template <typename T>
  Result<T> finish(T value) {
    if (error_) return *error_;
    return value;
  }
  [[nodiscard]] bool ok() const { return !error_; }

 private:
  const json* find(const char* key) {
    if (error_) return nullptr;
    const auto it = object_.find(key);
    if (it != object_.end()) return &*it;
    fail(EPROTO, key, "missing");
    return nullptr;
  }
  const json* typed(const char* key, bool (json::*is)() const noexcept, const char* otherwise) {
    const json* field = find(key);
    if (field == nullptr || (field->*is)()) return field;
    fail(EPROTO, key, otherwise);
    return nullptr;
  }

  const json& object_;
  const char* operation_;
  std::optional<Error> error_;
};

bool is_power_of_two(uint64_t n) { return n != 0 && (n & (n - 1)) == 0; }

}  // namespace

json to_json(const ReadyMessage& message) {
  return {{"type", "ready"},
          {"uid", message.uid},
          {"has_capabilities", message.has_capabilities},
          {"no_new_privileges", message.no_new_privileges},
          {"io_flusher", message.io_flusher},
          {"memory_locked", message.memory_locked},
          {"arena_bytes", message.arena_bytes},
          {"startup_us", message.startup_us},
          {"warning", message.warning}};
}

Result<ReadyMessage> ready_from_json(const json& object) {
  ReadyMessage message;
  Fields fields(object, "read_ready");
  fields.type("ready");
  fields.number("uid", message.uid);
  fields.boolean("has_capabilities", message.has_capabilities);
  fields.boolean("no_new_privileges", message.no_new_privileges);
  fields.boolean("io_flusher", message.io_flusher);
  fields.boolean("memory_locked", message.memory_locked);
  fields.number("arena_bytes", message.arena_bytes);
  fields.number("startup_us", message.startup_us);
  fields.string("warning", message.warning);
  return fields.finish(message);
}

json to_json(const Geometry& geometry) {
  return {{"queues", geometry.queues},
          {"queue_depth", geometry.queue_depth},
          {"max_io_bytes", geometry.max_io_bytes},
          {"logical_block_bytes", geometry.logical_block_bytes},
          {"physical_block_bytes", geometry.physical_block_bytes},
          {"size_bytes", geometry.size_bytes},
          {"read_only", geometry.read_only},
          {"volatile_cache", geometry.volatile_cache},
          {"fua", geometry.fua},
          {"discard_granularity_bytes", geometry.discard_granularity_bytes},
          {"discard_max_bytes", geometry.discard_max_bytes},
          {"write_zeroes_max_bytes", geometry.write_zeroes_max_bytes}};
}

Result<Geometry> geometry_from_json(const json& object) {
  constexpr uint64_t page_bytes = 4096;
  Geometry geometry;
  Fields fields(object, "read_geometry");
  fields.number("queues", geometry.queues);
  fields.number("queue_depth", geometry.queue_depth);
  fields.number("max_io_bytes", geometry.max_io_bytes);
  fields.number("logical_block_bytes", geometry.logical_block_bytes);
  fields.number("physical_block_bytes", geometry.physical_block_bytes);
  fields.number("size_bytes", geometry.size_bytes);
  fields.boolean("read_only", geometry.read_only);
  fields.boolean("volatile_cache", geometry.volatile_cache);
  fields.boolean("fua", geometry.fua);
  fields.number("discard_granularity_bytes", geometry.discard_granularity_bytes);
  fields.number("discard_max_bytes", geometry.discard_max_bytes);
  fields.number("write_zeroes_max_bytes", geometry.write_zeroes_max_bytes);
  if (!fields.ok()) return fields.finish(geometry);
  fields.check(geometry.queues >= 1 && geometry.queues <= limits::queues_max, "queues",
               "must be 1 to 4096");
  fields.check(geometry.queue_depth >= 1 && geometry.queue_depth <= limits::queue_depth_max,
               "queue_depth", "must be 1 to 4096");
  fields.check(geometry.max_io_bytes >= page_bytes && geometry.max_io_bytes % page_bytes == 0 &&
                   geometry.max_io_bytes <= limits::io_bytes_max,
               "max_io_bytes", "must be a multiple of 4096, at most 32 MiB");
  fields.check(uint64_t{geometry.queues} * geometry.queue_depth * geometry.max_io_bytes <=
                   limits::volume_buffer_bytes_max,
               "max_io_bytes", "queues x queue_depth x max_io_bytes must be at most 1 GiB");
  fields.check(is_power_of_two(geometry.logical_block_bytes) &&
                   geometry.logical_block_bytes >= 512 &&
                   geometry.logical_block_bytes <= page_bytes,
               "logical_block_bytes", "must be 512, 1024, 2048 or 4096");
  if (fields.ok())
    fields.check(geometry.size_bytes > 0 && geometry.size_bytes % geometry.logical_block_bytes == 0,
                 "size_bytes", "must be a positive multiple of logical_block_bytes");
  return fields.finish(geometry);
}

json to_json(const PrepareMessage& message) {
  return {{"type", "prepare"},
          {"geometry", to_json(message.geometry)},
          {"run_first", message.run_first}};
}

Result<PrepareMessage> prepare_from_json(const json& object) {
  PrepareMessage message;
  Fields fields(object, "read_prepare");
  fields.type("prepare");
  if (object.contains("run_first")) fields.boolean("run_first", message.run_first);
  if (const json* geometry = fields.object("geometry")) {
    if (auto read = geometry_from_json(*geometry))
      message.geometry = *read;
    else
      fields.fail(read.error());
  }
  return fields.finish(message);
}

json to_json(const GrantMessage& message) {
  return {{"type", "grant"},
          {"volume", message.volume},
          {"generation", message.generation},
          {"device", message.device},
          {"geometry", to_json(message.geometry)},
          {"queue_cpus", message.queue_cpus},
          {"backend", message.backend},
          {"latency_ns", message.latency_ns},
          {"halt_at", message.halt_at}};
}

Result<GrantMessage> grant_from_json(const json& object) {
  GrantMessage message;
  Fields fields(object, "read_grant");
  fields.type("grant");
  fields.string("volume", message.volume);
  fields.number("generation", message.generation);
  fields.number("device", message.device);
  fields.number("latency_ns", message.latency_ns);
  fields.string("halt_at", message.halt_at);
  if (const json* geometry = fields.object("geometry")) {
    if (auto read = geometry_from_json(*geometry))
      message.geometry = *read;
    else
      fields.fail(read.error());
  }
  if (const json* backend = fields.object("backend")) message.backend = *backend;
  if (const json* queues = fields.array("queue_cpus")) {
    for (const json& queue : *queues) {
      std::vector<unsigned> cpus;
      if (!queue.is_array()) fields.fail(EPROTO, "queue_cpus", "not an array of arrays");
      for (const json& cpu : queue) {
        if (!cpu.is_number_integer() || cpu < 0)
          fields.fail(EPROTO, "queue_cpus", "not CPU numbers");
        else
          cpus.push_back(cpu.get<unsigned>());
      }
      message.queue_cpus.push_back(std::move(cpus));
    }
    fields.check(message.queue_cpus.empty() || message.queue_cpus.size() == message.geometry.queues,
                 "queue_cpus", "must be empty or have one list a queue");
  }
  static constexpr const char* halt_points[] = {"", "before_open", "after_mmap", "half_fetched"};
  bool known = false;
  for (const char* point : halt_points) known = known || message.halt_at == point;
  fields.check(known, "halt_at", "must be empty, before_open, after_mmap or half_fetched");
  return fields.finish(std::move(message));
}

json to_json(const StatsMessage& message) {
  json io = json::object();
  for (const auto& [operation, counters] : message.io)
    io[operation] = {{"operations", counters.operations},
                     {"bytes", counters.bytes},
                     {"errors", counters.errors},
                     {"latency", counters.latency.counts},
                     {"latency_ns", counters.latency.sum_ns}};
  return {{"type", "stats"}, {"id", message.id}, {"io", io}, {"io_errors", message.io_errors}};
}

Result<StatsMessage> stats_from_json(const json& object) {
  StatsMessage message;
  Fields fields(object, "read_stats");
  fields.type("stats");
  fields.number("id", message.id);
  if (const json* io = fields.object("io")) {
    for (const auto& [operation, value] : io->items()) {
      Fields entry(value, "read_stats");
      IoCounters counters;
      entry.number("operations", counters.operations);
      entry.number("bytes", counters.bytes);
      entry.number("errors", counters.errors);
      if (value.is_object() && value.contains("latency")) {  // older servers do not say it
        entry.number("latency_ns", counters.latency.sum_ns);
        entry.numbers("latency", counters.latency.counts);
      }
      if (auto read = entry.finish(counters))
        message.io[operation] = *read;
      else
        fields.fail(read.error());
    }
  }
  if (const json* errors = fields.object("io_errors")) {
    Fields entry(*errors, "read_stats");
    for (const auto& [name, value] : errors->items())
      entry.number(name.c_str(), message.io_errors[name]);
    if (auto read = entry.finish(true); !read) fields.fail(read.error());
  }
  return fields.finish(std::move(message));
}

json to_json(const DescribedMessage& message) {
  return {{"type", "described"},      {"granted", message.granted},
          {"volume", message.volume}, {"generation", message.generation},
          {"device", message.device}, {"fetching", message.fetching}};
}

Result<DescribedMessage> described_from_json(const json& object) {
  DescribedMessage message;
  Fields fields(object, "read_described");
  fields.type("described");
  fields.boolean("granted", message.granted);
  fields.string("volume", message.volume);
  fields.number("generation", message.generation);
  fields.number("device", message.device);
  fields.boolean("fetching", message.fetching);
  return fields.finish(std::move(message));
}

json failed_to_json(const Error& error) {
  return {{"type", "failed"},
          {"errno", error.err},
          {"operation", error.operation},
          {"object", error.object},
          {"detail", error.detail}};
}

Error failed_from_json(const json& object) {
  Error error;
  unsigned err = 0;
  Fields fields(object, "read_failed");
  fields.number("errno", err);
  fields.string("operation", error.operation);
  fields.string("object", error.object);
  fields.string("detail", error.detail);
  error.err = static_cast<int>(err);
  if (auto read = fields.finish(true); !read) return read.error();
  if (error.err == 0) error.err = EPROTO;
  return error;
}

}  // namespace ublk_operator

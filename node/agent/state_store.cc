#include "node/agent/state_store.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <limits>
#include <utility>

#include "common/api/decode.h"
#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/strings.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {

namespace {

using nlohmann::json;

constexpr uint64_t record_version = 1;
constexpr uint64_t lease_version = 1;
// A manifest becomes longer as JSON with every default written out, but never twice as long as the
// longest one allowed.
constexpr size_t file_bytes_max = 2 * limits::manifest_bytes_max;
constexpr size_t node_id_digits = 32;
// NAME_MAX is 255; this leaves room for every suffix we add.
constexpr size_t stem_bytes_max = 200;

constexpr std::array<LeaseStep, 5> lease_steps{LeaseStep::none, LeaseStep::fencing,
                                               LeaseStep::released, LeaseStep::granted,
                                               LeaseStep::serving};

uint64_t hash_of(const std::string& text) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

// Names are validated where they come in; this keeps a mistake elsewhere from leaving the folder.
Result<void> check_name(const std::string& name) {
  if (name.empty() || name.size() > limits::volume_name_bytes_max || name.front() == '.' ||
      name.find('/') != std::string::npos || name.find('\0') != std::string::npos ||
      name.find("..") != std::string::npos)
    return Error{EINVAL, "state_file", "volume " + name, "not usable as the name of a file"};
  return {};
}

Error malformed(const std::string& path, std::string why) {
  return Error{EINVAL, "parse", path, std::move(why)};
}

// Strict: nlohmann's get<>() would also turn -1 or 1.5 into an unsigned number.
uint64_t unsigned_at(const json& object, const char* key) {
  return object.at(key).get_ref<const json::number_unsigned_t&>();
}

Result<json> parse_versioned(const std::string& text, const std::string& path, uint64_t version) {
  json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_discarded() || !parsed.is_object())
    return malformed(path, "not a JSON object: cut off or damaged");
  const auto found = parsed.find("version");
  if (found == parsed.end() || !found->is_number_unsigned())
    return malformed(path, "has no version");
  if (found->get<uint64_t>() != version)
    return malformed(path, "version " + found->dump() + " is not one this program knows (" +
                               std::to_string(version) + ")");
  return parsed;
}

std::string text_of(const json& value) {
  return value.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

json encode(const std::optional<BackendIdentity>& backend) {
  if (!backend) return {};
  return {{"device", backend->device},
          {"inode", backend->inode},
          {"birthNs", backend->birth_ns},
          {"sizeBytes", backend->size_bytes}};
}

BackendIdentity decode_backend(const json& backend) {
  return {unsigned_at(backend, "device"), unsigned_at(backend, "inode"),
          unsigned_at(backend, "birthNs"), unsigned_at(backend, "sizeBytes")};
}

json encode(const VolumeRecord& record) {
  Volume volume = record.volume;
  volume.status = {};
  return {{"version", record_version},
          {"volume", to_json(volume)},
          {"source",
           {{"file", record.source.file}, {"directoryIdentity", record.source.directory_identity}}},
          {"backend", encode(record.backend)},
          {"removing", record.removing},
          {"stopped", record.stopped},
          {"paused", record.paused},
          {"recoveryCount", record.recovery_count},
          {"lastRecoveryReason", record.last_recovery_reason},
          {"lastRecoveryTime", record.last_recovery_time},
          {"lastRecoveryUs", record.last_recovery_us ? json(*record.last_recovery_us) : json()},
          {"leaseGeneration", record.lease_generation}};
}

Result<VolumeRecord> decode_record(const std::string& text, const std::string& path) {
  auto parsed = parse_versioned(text, path, record_version);
  if (!parsed) return parsed.error();
  try {
    auto volume = volume_from_json(parsed->at("volume"));
    if (!volume) return malformed(path, volume.error().to_string());
    VolumeRecord record;
    record.volume = std::move(volume).value();
    record.volume.status = {};
    const json& source = parsed->at("source");
    record.source.file = source.at("file").get<std::string>();
    record.source.directory_identity = source.at("directoryIdentity").get<std::string>();
    if (const json& backend = parsed->at("backend"); !backend.is_null())
      record.backend = decode_backend(backend);
    record.removing = parsed->at("removing").get<bool>();
    record.stopped = parsed->at("stopped").get<bool>();
    record.paused = parsed->at("paused").get<bool>();
    record.recovery_count = unsigned_at(*parsed, "recoveryCount");
    record.last_recovery_reason = parsed->at("lastRecoveryReason").get<std::string>();
    record.last_recovery_time = parsed->at("lastRecoveryTime").get<std::string>();
    if (!parsed->at("lastRecoveryUs").is_null())
      record.last_recovery_us = static_cast<int64_t>(unsigned_at(*parsed, "lastRecoveryUs"));
    record.lease_generation = unsigned_at(*parsed, "leaseGeneration");
    return record;
  } catch (const std::exception& problem) {
    return malformed(path, problem.what());
  }
}

json encode(const std::string& name, const Lease& lease) {
  Volume shape;
  shape.metadata.name = name;
  shape.spec = lease.device_spec;
  return {{"version", lease_version},
          {"device", lease.device ? json(*lease.device) : json()},
          {"generation", lease.generation},
          {"step", to_string(lease.step)},
          {"recoveryBegun", lease.recovery_begun},
          {"staleMapping", lease.stale_mapping},
          {"holderPid", lease.holder_pid > 0 ? json(lease.holder_pid) : json()},
          {"holderStartTicks", lease.holder_start_ticks},
          {"madeFrom", to_json(shape)},
          {"backend", encode(lease.backend)},
          {"lost", lease.lost}};
}

Result<Lease> decode_lease(const std::string& text, const std::string& path,
                           const std::string& name) {
  auto parsed = parse_versioned(text, path, lease_version);
  if (!parsed) return parsed.error();
  try {
    Lease lease;
    if (!parsed->at("device").is_null()) {
      const uint64_t device = unsigned_at(*parsed, "device");
      if (device > std::numeric_limits<DeviceId>::max())
        return malformed(path, "device: too large");
      lease.device = static_cast<DeviceId>(device);
    }
    lease.generation = unsigned_at(*parsed, "generation");
    const auto word = parsed->at("step").get<std::string>();
    const auto* const step = std::find_if(lease_steps.begin(), lease_steps.end(),
                                          [&](LeaseStep s) { return word == to_string(s); });
    if (step == lease_steps.end()) return malformed(path, "unknown step '" + word + "'");
    lease.step = *step;
    lease.recovery_begun = parsed->at("recoveryBegun").get<bool>();
    lease.stale_mapping = parsed->value("staleMapping", false);  // older agents wrote none
    if (!parsed->at("holderPid").is_null()) {
      const uint64_t pid = unsigned_at(*parsed, "holderPid");
      if (pid == 0 || pid > static_cast<uint64_t>(std::numeric_limits<pid_t>::max()))
        return malformed(path, "holderPid: not a process");
      lease.holder_pid = static_cast<pid_t>(pid);
    }
    lease.holder_start_ticks = unsigned_at(*parsed, "holderStartTicks");
    auto shape = volume_from_json(parsed->at("madeFrom"));
    if (!shape) return malformed(path, shape.error().to_string());
    if (shape->metadata.name != name)
      return malformed(path, "is of volume '" + shape->metadata.name + "'");
    lease.device_spec = shape->spec;
    if (const auto backend = parsed->find("backend");
        backend != parsed->end() && !backend->is_null())
      lease.backend = decode_backend(*backend);
    lease.lost = parsed->value("lost", "");  // older agents wrote none
    return lease;
  } catch (const std::exception& problem) {
    return malformed(path, problem.what());
  }
}

// Keeps the file for a person to look at. One broken file a volume is kept: the newest.
BrokenRecord move_aside(const std::string& path, Error error) {
  const std::string aside = path + ".broken";
  if (std::rename(path.c_str(), aside.c_str()) == 0) return {aside, std::move(error)};
  error.detail += "; moving it aside failed too: " + errno_error("rename", aside).to_string();
  return {path, std::move(error)};
}

}  // namespace

const char* to_string(LeaseStep step) {
  switch (step) {
    case LeaseStep::none:
      return "none";
    case LeaseStep::fencing:
      return "fencing";
    case LeaseStep::released:
      return "released";
    case LeaseStep::granted:
      return "granted";
    case LeaseStep::serving:
      return "serving";
  }
  panic("unknown LeaseStep", __FILE__, __LINE__);
}

std::string file_stem(const std::string& volume_name) {
  if (volume_name.size() <= stem_bytes_max) return volume_name;
  char hash[17];
  std::snprintf(hash, sizeof hash, "%016llx",
                static_cast<unsigned long long>(hash_of(volume_name)));
  // '~' is in no volume's name, so that a short name never meets a shortened one.
  return volume_name.substr(0, stem_bytes_max) + "~" + hash;
}

StateStore::StateStore(std::string state_dir, std::string run_dir, FileLock lock)
    : state_dir_(std::move(state_dir)), run_dir_(std::move(run_dir)), lock_(std::move(lock)) {}

std::string StateStore::record_path(const std::string& name) const {
  return state_dir_ + "/volumes/" + file_stem(name) + ".json";
}

std::string StateStore::lease_path(const std::string& name) const {
  return run_dir_ + "/leases/" + file_stem(name) + ".json";
}

Result<std::unique_ptr<StateStore>> StateStore::open(const std::string& state_dir,
                                                     const std::string& run_dir,
                                                     std::optional<int> wait_fd) {
  // Manifests may hold what not everybody should read, and leases name processes to be killed.
  for (const std::string& folder : {state_dir + "/volumes", run_dir + "/leases"})
    if (auto made = make_directories(folder, 0700); !made) return made.error();
  const std::string path = state_dir + "/lock";
  auto lock = wait_fd ? FileLock::wait(path, *wait_fd)
                      : FileLock::take(path,
                                       "it is an agent that works with this folder. Stop it, or "
                                       "give this one another folder");
  if (!lock) return std::move(lock).error();
  return std::unique_ptr<StateStore>(new StateStore(state_dir, run_dir, std::move(*lock)));
}

Result<StateStore::Loaded> StateStore::load() {
  const std::string folder = state_dir_ + "/volumes";
  std::vector<std::string> paths;
  std::error_code failed;
  for (std::filesystem::directory_iterator entry(folder, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    const std::string path = entry->path().string();
    const std::string suffix = entry->path().extension().string();
    if (suffix == ".tmp") ::unlink(path.c_str());  // ours alone: we hold the lock
    if (suffix == ".json") paths.push_back(path);
  }
  if (failed) return Error{failed.value(), "read_folder", folder, ""};
  std::sort(paths.begin(), paths.end());

  Loaded loaded;
  for (const std::string& path : paths) {
    if (loaded.volumes.size() == limits::volumes_max) {
      loaded.broken.push_back(
          {path, Error{E2BIG, "load", path,
                       "not read: a node has at most " + std::to_string(limits::volumes_max) +
                           " volumes; remove the records of those that are no more"}});
      break;
    }
    auto text = read_file(path, file_bytes_max);
    if (!text && text.err() != EFBIG) {
      // The disk or the moment is at fault, not the content: it stays where it is.
      loaded.broken.push_back({path, text.error()});
      continue;
    }
    auto record = text ? decode_record(*text, path) : Result<VolumeRecord>(text.error());
    if (record && record_path(record->volume.metadata.name) != path)
      record = malformed(path, "is of volume '" + record->volume.metadata.name + "'");
    if (record)
      loaded.volumes.push_back(std::move(record).value());
    else
      loaded.broken.push_back(move_aside(path, record.error()));
  }
  return loaded;
}

Result<void> StateStore::save(const VolumeRecord& record) {
  const std::string& name = record.volume.metadata.name;
  if (auto usable = check_name(name); !usable) return usable;
  return write_file_atomically(record_path(name), text_of(encode(record)));
}

Result<void> StateStore::erase(const std::string& name) {
  // The lease first: one that outlived its record would be taken for that of a new volume of this
  // name.
  if (auto erased = erase_lease(name); !erased) return erased;
  return remove_file_durably(record_path(name));
}

std::map<std::string, BackendIdentity> StateStore::leased_backends() {
  std::map<std::string, BackendIdentity> backends;
  std::error_code failed;
  for (std::filesystem::directory_iterator entry(run_dir_ + "/leases", failed), end;
       !failed && entry != end; entry.increment(failed)) {
    if (entry->path().extension() != ".json") continue;
    auto text = read_file(entry->path().string(), file_bytes_max);
    if (!text) continue;
    const json lease = json::parse(*text, nullptr, false);
    const json::json_pointer name("/madeFrom/metadata/name");
    if (!lease.is_object() || !lease.contains(name) || !lease[name].is_string()) continue;
    const auto volume = lease[name].get<std::string>();
    if (auto known = decode_lease(*text, entry->path(), volume); known && known->backend)
      backends.emplace(volume, *known->backend);
  }
  return backends;
}

std::optional<Lease> StateStore::load_lease(const std::string& name) {
  if (!check_name(name)) return std::nullopt;
  const std::string path = lease_path(name);
  auto text = read_file(path, file_bytes_max);
  if (!text && text.err() != EFBIG) return std::nullopt;
  auto lease = text ? decode_lease(*text, path, name) : Result<Lease>(text.error());
  if (lease) return std::move(lease).value();
  (void)move_aside(path, lease.error());
  return std::nullopt;
}

Result<void> StateStore::save_lease(const std::string& name, const Lease& lease) {
  if (auto usable = check_name(name); !usable) return usable;
  // Lies in the path of a recovery. It ends with the boot anyway, so it waits for no disk.
  return write_file_atomically(lease_path(name), text_of(encode(name, lease)), 0600,
                               Durability::process);
}

Result<void> StateStore::erase_lease(const std::string& name) {
  if (auto usable = check_name(name); !usable) return usable;
  const std::string path = lease_path(name);
  if (::unlink(path.c_str()) < 0 && errno != ENOENT) return errno_error("unlink", path);
  return {};
}

Result<std::string> StateStore::node_id(const std::string& machine_id) {
  const auto is_id = [](const std::string& text) {
    return text.size() == node_id_digits &&
           text.find_first_not_of("0123456789abcdef") == std::string::npos;
  };
  const std::string path = state_dir_ + "/node-id";
  auto text = read_file(path, 4096);
  if (text) {
    std::string id(trim(*text));
    if (is_id(id)) return id;
    return Error{EINVAL, "node_id", path,
                 "damaged: restore it, or remove it once no ublk device of this node exists"};
  }
  if (text.err() != ENOENT) return text.error();
  std::string id = machine_id;
  if (!is_id(id)) {
    std::array<unsigned char, node_id_digits / 2> random{};
    if (::getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size()))
      return errno_error("getrandom", path);
    id.clear();
    for (const unsigned char byte : random) {
      id += "0123456789abcdef"[byte >> 4];
      id += "0123456789abcdef"[byte & 15];
    }
  }
  auto written = write_file_atomically(path, id + "\n");
  // A machine's id needs no file as long as it is seen: a full disk keeps nobody from recovering
  // volumes.
  if (!written && id != machine_id) return written.error();
  return id;
}

}  // namespace ublk_operator

#include "common/api/volume_rules.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <limits>
#include <utility>

#include "common/api/quantity.h"
#include "common/base/limits.h"
#include "common/base/strings.h"

namespace ublk_operator {
namespace {

using std::chrono::milliseconds;

constexpr uint64_t kSizeMin = 4096;
constexpr uint64_t kSizeMax = std::numeric_limits<int64_t>::max();
constexpr uint32_t kIoBytesMin = 4096;
constexpr milliseconds kLatencyMax{60'000};
constexpr uint32_t kRestartsMax = 1'000'000;
constexpr size_t kPathBytesMax = 4096;
constexpr size_t kPathComponentBytesMax = 255;
constexpr size_t kLabelBytesMax = 63;

constexpr std::array kModes{RecoveryMode::none, RecoveryMode::queue, RecoveryMode::reissue,
                            RecoveryMode::fail_io};
constexpr std::array kOnDeadlines{OnDeadline::keep_waiting, OnDeadline::fail_device};
constexpr std::array kReclaimPolicies{ReclaimPolicy::retain, ReclaimPolicy::remove};
constexpr std::array kProvisionings{Provisioning::thin, Provisioning::thick};
constexpr std::array kConditionStatuses{ConditionStatus::yes, ConditionStatus::no,
                                        ConditionStatus::unknown};
constexpr std::array<uint32_t, 4> kBlockSizes{512, 1024, 2048, 4096};

// A label of RFC 1123: lower case letters, digits and '-', with no '-' at its ends.
bool is_dns_label(std::string_view label) {
  const auto alphanumeric = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  return !label.empty() && label.size() <= kLabelBytesMax && alphanumeric(label.front()) &&
         alphanumeric(label.back()) && std::all_of(label.begin(), label.end(), [&](char c) {
           return alphanumeric(c) || c == '-';
         });
}

// As Kubernetes checks names: dots between labels, here each label with its own limit.
bool is_volume_name(std::string_view name) {
  if (name.empty() || name.size() > limits::volume_name_bytes_max) return false;
  const auto labels = split(name, '.');
  return std::all_of(labels.begin(), labels.end(), is_dns_label);
}

bool has_control_character(std::string_view text) {
  return std::any_of(text.begin(), text.end(),
                     [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

// The names every Kubernetes object may carry and that mean nothing on one machine.
const std::vector<std::string>& foreign_metadata() {
  static const std::vector<std::string> names = {
      "namespace",     "resourceVersion", "creationTimestamp", "deletionTimestamp",
      "managedFields", "ownerReferences", "finalizers",        "deletionGracePeriodSeconds",
      "selfLink",      "generateName"};
  return names;
}

void read_metadata(ObjectReader& root, Origin origin, Metadata& metadata) {
  auto reader = root.object("metadata");
  if (!reader) {
    if (!root.has("metadata")) root.missing("metadata", "an object with the volume's name");
    return;
  }
  if (reader->string("name", metadata.name)) {
    if (!is_volume_name(metadata.name)) {
      reader->problem("name", show(metadata.name) +
                                  " is not a name; expected lower case letters, digits, '-' and "
                                  "'.', a letter or digit at both ends, at most 63 between dots "
                                  "and 253 in all");
    }
  } else if (!reader->has("name")) {
    reader->missing("name", "the volume's name, such as pgdata");
  }
  reader->string_map("labels", metadata.labels);
  reader->string_map("annotations", metadata.annotations);
  reader->ignore(foreign_metadata());
  if (origin == Origin::manifest) {
    reader->ignore({"uid", "generation"});
  } else {
    reader->string("uid", metadata.uid);
    reader->signed_number("generation", 0, metadata.generation);
  }
  reader->finish();
}

void read_recovery(ObjectReader& spec, RecoverySpec& recovery) {
  auto reader = spec.object("recovery");
  if (!reader) return;
  reader->choice("mode", kModes, recovery.mode);
  milliseconds deadline{0};
  if (reader->duration("deadline", deadline)) {
    if (deadline.count() == 0) {
      reader->problem("deadline", "is 0; expected a duration such as 30s (leave it out for none)");
    } else {
      recovery.deadline = deadline;
    }
  }
  if (reader->choice("onDeadline", kOnDeadlines, recovery.on_deadline) &&
      recovery.on_deadline == OnDeadline::fail_device && !reader->has("deadline")) {
    reader->problem("onDeadline", "'FailDevice' needs a spec.recovery.deadline, such as 30s");
  }
  reader->whole_number("maxRestarts", uint32_t{1}, kRestartsMax, recovery.max_restarts);
  if (auto back_off = reader->object("backOff")) {
    for (const auto& [name, value] : {std::pair{"initial", &recovery.back_off.initial},
                                      std::pair{"max", &recovery.back_off.maximum}}) {
      if (back_off->duration(name, *value) && value->count() == 0) {
        back_off->problem(name, "is 0; expected a duration such as 100ms");
      }
    }
    if (recovery.back_off.initial > recovery.back_off.maximum) {
      back_off->problem(back_off->has("initial") ? "initial" : "max",
                        "initial (" + format_duration(recovery.back_off.initial) +
                            ") is longer than max (" + format_duration(recovery.back_off.maximum) +
                            "); lower initial or raise max");
    }
    back_off->finish();
  }
  reader->finish();
}

// Lexical only; that the path stays beneath its pool is proved by how it is opened.
std::string path_problem(const std::string& path) {
  if (path.empty()) return "is empty; expected a path relative to the pool, such as pgdata.img";
  const std::string shown = show(path);
  if (path.size() > kPathBytesMax) {
    return shown + " is longer than " + std::to_string(kPathBytesMax) + " bytes";
  }
  if (has_control_character(path)) return shown + " holds a control character";
  if (path.front() == '/') return shown + " is absolute; expected a path relative to the pool";
  if (path.back() == '/') return shown + " ends in '/'; expected the path of a file";
  for (const std::string_view part : split(path, '/')) {
    if (part.empty()) return shown + " has an empty part ('//')";
    if (part == "." || part == "..") {
      return shown + " has the part '" + std::string(part) +
             "'; expected a path that stays within the pool";
    }
    if (part.size() > kPathComponentBytesMax) {
      return shown + " has a part longer than " + std::to_string(kPathComponentBytesMax) + " bytes";
    }
  }
  return "";
}

FileBackendSpec read_file_backend(ObjectReader reader) {
  FileBackendSpec file;
  if (reader.string("path", file.path)) {
    const std::string problem = path_problem(file.path);
    if (!problem.empty()) reader.problem("path", problem);
  } else if (!reader.has("path")) {
    reader.missing("path", "a path relative to the pool, such as pgdata.img");
  }
  if (reader.string("pool", file.pool) && !is_dns_label(file.pool)) {
    reader.problem("pool", show(file.pool) +
                               " is not the name of a pool; expected up to 63 lower case letters, "
                               "digits and '-', a letter or digit at both ends");
  }
  reader.choice("provisioning", kProvisionings, file.provisioning);
  reader.boolean("directIO", file.direct_io);
  reader.finish();
  return file;
}

void read_backend(ObjectReader& spec, BackendSpec& backend) {
  auto reader = spec.object("backend");
  if (!reader) {
    if (!spec.has("backend")) spec.missing("backend", "exactly one of null or file");
    return;
  }
  // In YAML the key is written like the null value, and `null:` alone is the whole backend: it has
  // no fields. So here, and only here, a null value counts.
  const Member* null_backend = reader->find_or_null("null");
  const bool has_file = reader->has("file");
  if (null_backend != nullptr && has_file) {
    spec.problem("backend", "has both null and file; expected exactly one of them");
  } else if (null_backend == nullptr && !has_file && reader->find("file") == nullptr) {
    spec.problem("backend", "names no backend; expected exactly one of null or file");
  }
  if (null_backend != nullptr && null_backend->value->kind != Tree::Kind::null) {
    if (auto fields = reader->object("null")) {
      if (!null_backend->value->members.empty()) {
        reader->problem("null", "has fields; expected none: write null: {}");
      }
    }
    backend = NullBackendSpec{};
  }
  if (auto file = reader->object("file")) backend = read_file_backend(*file);
  reader->finish();
}

// As useradd(8) has it, with upper case and dots as directory services use them.
bool is_account_name(std::string_view name) {
  constexpr std::string_view first = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_";
  constexpr std::string_view later =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789.-@\\$";
  constexpr size_t name_max = 256;
  return !name.empty() && name.size() <= name_max &&
         first.find(name[0]) != std::string_view::npos &&
         name.find_first_not_of(later) == std::string_view::npos;
}

void read_device(ObjectReader& spec, DeviceAccess& device) {
  auto reader = spec.object("device");
  if (!reader) return;
  if (const Member* mode = reader->find("mode")) {
    const Tree& tree = *mode->value;
    const std::string& text = tree.text;
    const bool octal = tree.kind == Tree::Kind::scalar && !text.empty() && text.size() <= 4 &&
                       text.find_first_not_of("01234567") == std::string::npos &&
                       (text.size() < 4 || text[0] == '0');
    // Without quotes 0660 is 432 to most YAML readers, so what arrives without the leading 0 may
    // have been translated by one of them.
    if (octal && (tree.quoted || text[0] == '0')) {
      device.mode = 0;
      for (const char c : text) device.mode = device.mode * 8 + static_cast<uint32_t>(c - '0');
    } else {
      reader->problem("mode",
                      (tree.kind == Tree::Kind::scalar ? show(text) + " is not an octal mode"
                                                       : "is " + describe(tree)) +
                          "; expected a string from \"0000\" to \"0777\", such as \"0660\"");
    }
  }
  for (const auto& [name, value] :
       {std::pair{"owner", &device.owner}, std::pair{"group", &device.group}}) {
    const Member* member = reader->find(name);
    if (member == nullptr) continue;
    const Tree& tree = *member->value;
    const std::string& text = tree.text;
    const bool number = !text.empty() && text.size() <= 10 &&
                        text.find_first_not_of("0123456789") == std::string::npos;
    if (tree.kind == Tree::Kind::scalar && number) {
      // 2^32-1 means "leave it as it is" to chown(2).
      if (std::stoull(text) >= std::numeric_limits<uint32_t>::max()) {
        reader->problem(name, show(text) + " is too large; at most 4294967294");
        continue;
      }
      *value = text;
    } else if (tree.kind == Tree::Kind::scalar && !is_account_name(text)) {
      reader->problem(name, show(text) + " is neither the name nor the number of an account");
    } else {
      reader->string(name, *value);
    }
  }
  reader->finish();
}

void read_geometry(ObjectReader& reader, VolumeSpec& spec) {
  reader.whole_number("queues", uint32_t{1}, limits::queues_max, spec.queues);
  reader.whole_number("queueDepth", uint32_t{1}, limits::queue_depth_max, spec.queue_depth);
  uint32_t block = spec.logical_block_bytes;
  if (reader.whole_number("logicalBlockSize", uint32_t{1}, std::numeric_limits<uint32_t>::max(),
                          block)) {
    if (std::find(kBlockSizes.begin(), kBlockSizes.end(), block) == kBlockSizes.end()) {
      reader.problem("logicalBlockSize", "unknown value '" + std::to_string(block) +
                                             "'; expected 512, 1024, 2048 or 4096");
    } else {
      spec.logical_block_bytes = block;
    }
  }
  uint64_t io_bytes = 0;
  if (reader.quantity("maxIOSize", io_bytes)) {
    if (io_bytes < kIoBytesMin || io_bytes > limits::io_bytes_max || io_bytes % kIoBytesMin != 0) {
      reader.problem("maxIOSize", format_quantity(io_bytes) +
                                      " is not possible; expected a multiple of 4Ki from 4Ki to " +
                                      format_quantity(limits::io_bytes_max));
    } else {
      spec.max_io_bytes = static_cast<uint32_t>(io_bytes);
    }
  }
  // Each factor is bounded, so the product fits: 2^12 * 2^12 * 2^25.
  const uint64_t buffers = uint64_t{spec.queues} * spec.queue_depth * spec.max_io_bytes;
  if (buffers > limits::volume_buffer_bytes_max) {
    const char* where = reader.has("maxIOSize")    ? "maxIOSize"
                        : reader.has("queueDepth") ? "queueDepth"
                                                   : "queues";
    reader.problem(
        where, "queues x queueDepth x maxIOSize = " + std::to_string(spec.queues) + " x " +
                   std::to_string(spec.queue_depth) + " x " + format_quantity(spec.max_io_bytes) +
                   " = " + format_quantity(buffers) + " of locked memory; at most " +
                   format_quantity(limits::volume_buffer_bytes_max) + ": lower one of them");
  }
  uint64_t size = 0;
  if (reader.quantity("size", size)) {
    if (size == 0) {
      reader.problem("size", "is 0; expected a quantity such as 10Gi");
    } else if (size % spec.logical_block_bytes != 0) {
      const uint64_t rest = size % spec.logical_block_bytes;
      const uint64_t up = size - rest + spec.logical_block_bytes;
      reader.problem("size", format_quantity(size) + " is not a multiple of logicalBlockSize (" +
                                 std::to_string(spec.logical_block_bytes) + ")" +
                                 (up <= kSizeMax && up >= kSizeMin
                                      ? "; the next larger one is " + format_quantity(up)
                                      : ""));
    } else if (size < kSizeMin) {
      reader.problem("size", format_quantity(size) + " is too small; expected at least " +
                                 format_quantity(kSizeMin) + " (is the suffix missing?)");
    } else {
      spec.size_bytes = size;
    }
  } else if (!reader.has("size")) {
    reader.missing("size", "a quantity such as 10Gi");
  }
}

void read_spec(ObjectReader& root, Origin origin, VolumeSpec& spec) {
  auto found = root.object("spec");
  if (!found) {
    // to_json leaves out the spec of a volume that never had a valid one.
    if (origin == Origin::manifest && !root.has("spec")) {
      root.missing("spec", "an object with size and backend");
    }
    return;
  }
  ObjectReader& reader = *found;
  // The order is that of the documentation: messages that list the fields follow it.
  if (reader.string("nodeName", spec.node_name) && !spec.node_name.empty() &&
      !is_volume_name(spec.node_name)) {
    reader.problem("nodeName", show(spec.node_name) +
                                   " is not the name of a node; expected lower case letters, "
                                   "digits, '-' and '.', as `kubectl get nodes` shows it");
  }
  (void)reader.find_or_null("size");
  read_recovery(reader, spec.recovery);
  read_backend(reader, spec.backend);
  if (auto faults = reader.object("faultInjection")) {
    if (faults->duration("latency", spec.fault_injection.latency) &&
        spec.fault_injection.latency > kLatencyMax) {
      faults->problem("latency", format_duration(spec.fault_injection.latency) +
                                     " is too long; at most " + format_duration(kLatencyMax));
    }
    faults->finish();
  }
  read_geometry(reader, spec);
  reader.boolean("readOnly", spec.read_only);
  reader.boolean("running", spec.running);
  read_device(reader, spec.device);
  reader.choice("reclaimPolicy", kReclaimPolicies, spec.reclaim_policy);
  reader.finish();
}

void read_conditions(ObjectReader& status, ProblemList& problems,
                     std::vector<Condition>& conditions) {
  size_t index = 0;
  for (const TreePtr& item : status.list("conditions")) {
    const std::string path = status.path_of("conditions") + "[" + std::to_string(index++) + "]";
    if (item->kind != Tree::Kind::object) {
      problems.add(item->at, path, "is " + describe(*item) + "; expected an object");
      continue;
    }
    ObjectReader reader(*item, item->at, path, problems);
    Condition condition;
    reader.string("type", condition.type);
    reader.choice("status", kConditionStatuses, condition.status);
    reader.string("reason", condition.reason);
    reader.string("message", condition.message);
    reader.signed_number("observedGeneration", 0, condition.observed_generation);
    reader.string("lastTransitionTime", condition.last_transition_time);
    conditions.push_back(std::move(condition));
  }
}

void read_counters(ObjectReader& status, ProblemList& problems, VolumeStatus& values) {
  constexpr uint64_t most = std::numeric_limits<uint64_t>::max();
  const auto members = [&](const char* name) {
    const Member* member = status.find(name);
    return member == nullptr || !status.object(name) ? std::vector<Member>{}
                                                     : member->value->members;
  };
  for (const Member& operation : members("io")) {
    if (operation.value->kind != Tree::Kind::object) continue;
    ObjectReader reader(*operation.value, operation.at, "status.io." + operation.key, problems);
    IoCounters& counters = values.io[operation.key];
    reader.whole_number("operations", uint64_t{0}, most, counters.operations);
    reader.whole_number("bytes", uint64_t{0}, most, counters.bytes);
    reader.whole_number("errors", uint64_t{0}, most, counters.errors);
  }
  for (const Member& error : members("ioErrors")) {
    auto reader = status.object("ioErrors");
    reader->whole_number(error.key, uint64_t{0}, most, values.io_errors[error.key]);
  }
}

// Fields it does not know are passed over: ublkctl may be older than the agent.
void read_status(ObjectReader& root, ProblemList& problems, VolumeStatus& status) {
  constexpr uint64_t most = std::numeric_limits<uint64_t>::max();
  auto found = root.object("status");
  if (!found) return;
  ObjectReader& reader = *found;
  reader.signed_number("observedGeneration", 0, status.observed_generation);
  read_conditions(reader, problems, status.conditions);
  uint32_t device_id = 0;
  if (reader.whole_number("deviceID", uint32_t{0}, std::numeric_limits<uint32_t>::max(),
                          device_id)) {
    status.device_id = device_id;
  }
  reader.string("devicePath", status.device_path);
  reader.string("linkPath", status.link_path);
  reader.string("state", status.state);
  int64_t pid = 0;
  if (reader.signed_number("serverPID", 0, pid)) status.server_pid = pid;
  reader.whole_number("leaseGeneration", uint64_t{0}, most, status.lease_generation);
  reader.whole_number("recoveryCount", uint64_t{0}, most, status.recovery_count);
  if (auto last = reader.object("lastRecovery")) {
    std::string duration;
    if (last->string("duration", duration)) {
      const auto parsed = parse_duration_micro(duration);
      if (parsed) {
        status.last_recovery_duration = *parsed;
      } else {
        last->problem("duration", show(duration) + " " + parsed.error().detail);
      }
    }
    last->string("reason", status.last_recovery_reason);
    last->string("time", status.last_recovery_time);
  }
  reader.quantity("size", status.size_bytes);
  read_counters(reader, problems, status);
}

// False: it is no volume at all, and saying more about it would only be noise.
bool read_type(ObjectReader& root) {
  std::string kind;
  std::string version;
  if (root.string("apiVersion", version)) {
    if (version != kApiVersion) {
      root.problem("apiVersion", "unknown value " + show(version) + "; expected " + kApiVersion);
    }
  } else if (!root.has("apiVersion")) {
    root.missing("apiVersion", kApiVersion);
  }
  if (!root.string("kind", kind)) {
    if (!root.has("kind")) root.missing("kind", kVolumeKind);
    return true;
  }
  if (kind == kVolumeKind) return true;
  root.problem("kind", "unknown value " + show(kind) + "; expected " + kVolumeKind);
  return !did_you_mean(kind, {kVolumeKind}).empty();
}

}  // namespace

Volume read_volume(const Tree& tree, Origin origin, ProblemList& problems) {
  Volume volume;
  if (tree.kind != Tree::Kind::object) {
    problems.add(tree.at, "",
                 "is " + describe(tree) + "; expected a " + kVolumeKind +
                     ": apiVersion, kind, metadata and spec");
    return volume;
  }
  find_duplicates(tree, "", problems);
  ObjectReader root(tree, tree.at, "", problems);
  if (!read_type(root)) return volume;
  read_metadata(root, origin, volume.metadata);
  read_spec(root, origin, volume.spec);
  if (origin == Origin::manifest) {
    root.ignore({"status"});
  } else {
    read_status(root, problems, volume.status);
  }
  root.finish();
  return volume;
}

VolumeEvent read_event(const Tree& tree, ProblemList& problems) {
  VolumeEvent event;
  if (tree.kind != Tree::Kind::object) {
    problems.add(tree.at, "", "is " + describe(tree) + "; expected an object");
    return event;
  }
  ObjectReader reader(tree, tree.at, "", problems);
  std::string type;
  reader.string("volume", event.volume);
  if (reader.string("type", type)) {
    event.warning = type == "Warning";
    if (type != "Warning" && type != "Normal") {
      reader.problem("type", "unknown value " + show(type) + "; expected Normal or Warning");
    }
  }
  reader.string("reason", event.reason);
  reader.string("message", event.message);
  reader.string("firstTimestamp", event.first_time);
  reader.string("lastTimestamp", event.last_time);
  reader.whole_number("count", uint64_t{0}, std::numeric_limits<uint64_t>::max(), event.count);
  return event;
}

std::string read_name(const Tree& tree) {
  ProblemList unused("");
  if (tree.kind != Tree::Kind::object) return "";
  ObjectReader root(tree, tree.at, "", unused);
  auto metadata = root.object("metadata");
  std::string name;
  if (!metadata || !metadata->string("name", name) || !is_volume_name(name)) return "";
  // "pgdat" at the very end of a file may be the beginning of "pgdata": then it is not its name.
  if (metadata->find("name")->value->cut_off) return "";
  return name;
}

}  // namespace ublk_operator

#include "controller/operator/controller.h"

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "common/api/decode.h"
#include "common/api/quantity.h"

namespace ublk_operator::controller {

namespace {

using nlohmann::json;

constexpr auto stuck_after = std::chrono::seconds(60);  // a call takes 10 s at most, a plan two
constexpr std::array watched{"ublkvolumes", "ublknodes", "leases"};

kube::Resource volumes() { return {"ublk.dev", "v1alpha1", "ublkvolumes", ""}; }
kube::Resource nodes() { return {"ublk.dev", "v1alpha1", "ublknodes", ""}; }

kube::Informer::Options informer_options() {
  kube::Informer::Options options;
  options.page_limit = 100;  // a page is in memory as a whole, ten times its size
  options.back_off_max = std::chrono::seconds(3);  // two clients burden no server
  return options;
}

// The time of a condition moves only with its status.
void set_time(Condition& wanted, const std::optional<Condition>& have, const std::string& now) {
  const bool kept = have && have->status == wanted.status && !have->last_transition_time.empty();
  wanted.last_transition_time = kept ? have->last_transition_time : now;
}

const char* name_of(Write write) {
  switch (write) {
    case Write::none:
      return "none";
    case Write::bind:
      return "bind";
    case Write::add_finalizer:
      return "add_finalizer";
    case Write::remove_finalizer:
      return "remove_finalizer";
  }
  return "?";
}

}  // namespace

Controller::Metrics::Metrics(metrics::Registry& r)
    : registry(r),
      reconciles(r.counter("ublk_controller_reconcile_total",
                           "Volumes that were looked at while this process led.")),
      errors(r.counter("ublk_controller_reconcile_errors_total",
                       "Writes that failed and are tried again; conflicts are not counted.")),
      conflicts(r.counter("ublk_controller_reconcile_conflicts_total",
                          "Writes that rested on an old version and were decided anew.")),
      status_writes(r.counter("ublk_controller_status_writes_total",
                              "Conditions of a volume that were written.")) {
  for (const char* reason : {"Bound", "NoNode", "NoPool", "NoSpace", "ModeUnsupported"})
    (void)r.counter("ublk_controller_bindings_total",
                    "Attempts to bind a volume to a node, by what came of them.",
                    {{"reason", reason}});
}

void Controller::Metrics::bound(const std::string& reason) const {
  registry
      .counter("ublk_controller_bindings_total",
               "Attempts to bind a volume to a node, by what came of them.", {{"reason", reason}})
      .add();
}

Controller::Controller(const std::shared_ptr<kube::Transport>& transport, Options options,
                       metrics::Registry& registry,
                       std::function<void(const std::string& why)> on_lost, Logger log)
    : options_(std::move(options)),
      log_(std::move(log)),
      client_(transport),
      metrics_(registry),
      events_(transport, {.component = kFieldManager, .instance = options_.identity}, log_),
      elector_(transport,
               {.namespace_name = options_.namespace_name,
                .name = options_.lease_name,
                .identity = options_.identity},
               {.on_leading =
                    [this] {
                      const std::scoped_lock lock(mutex_);
                      changed_.notify_all();
                      if (taints_) taints_->look_all();
                    },
                .on_lost = std::move(on_lost)},
               log_) {
  const std::array resources{volumes(), nodes(), kube::lease_resource(options_.namespace_name)};
  constexpr std::array listeners{&Controller::volume_changed, &Controller::node_changed,
                                 &Controller::lease_changed};
  for (size_t i = 0; i < kinds; ++i) {
    reflectors_[i] = std::make_unique<kube::Reflector>(
        transport, resources[i], "", informer_options(),
        [this, listener = listeners[i]](const std::string& name, const json* object) {
          (this->*listener)(name, object);
        },
        [this] { kind_synced(); }, log_);
  }
  if (!options_.startup_taint.empty()) {
    taints_ = std::make_unique<StartupTaints>(
        transport, options_.startup_taint,
        [this](const std::string& node) {
          if (!elector_.leads()) return false;
          const std::scoped_lock lock(mutex_);
          return inventory_.serves(node);
        },
        registry, log_);
  }
  registry.on_scrape([this] { look(); });
}

Controller::~Controller() { stop(); }

void Controller::start() {
  for (const auto& reflector : reflectors_) reflector->start();
  if (taints_) taints_->start();
  elector_.start();
  worker_ = std::thread([this] { run(); });
}

void Controller::stop() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  cancel_.cancel();
  if (worker_.joinable()) worker_.join();
  if (taints_) taints_->stop();
  elector_.release();
}

bool Controller::synced() const {
  const std::scoped_lock lock(mutex_);
  return synced_kinds_ == kinds;
}

bool Controller::healthy() const {
  const std::scoped_lock lock(mutex_);
  return !busy_since_ || Clock::now() - *busy_since_ < stuck_after;
}

// --- what comes in

void Controller::enqueue(const Inventory::Names& names) {
  const auto now = Clock::now();
  for (const auto& name : names) queue_.add(name, now);
  changed_.notify_all();
}

void Controller::volume_changed(const std::string& name, const json* object) {
  std::optional<VolumeRecord> record;
  if (object != nullptr) record = read_volume(*object);
  const std::scoped_lock lock(mutex_);
  enqueue(inventory_.volume_changed(name, std::move(record)));
}

void Controller::node_changed(const std::string& name, const json* object) {
  std::optional<NodeRecord> record;
  if (object != nullptr) record = read_node(*object);
  const std::scoped_lock lock(mutex_);
  enqueue(inventory_.node_changed(name, std::move(record)));
  if (taints_) taints_->look(name);
}

void Controller::lease_changed(const std::string& name, const json* object) {
  if (name == options_.lease_name) elector_.observed(object);
  const std::scoped_lock lock(mutex_);
  const std::string_view prefix = kNodeLeasePrefix;
  if (!name.starts_with(prefix)) return enqueue(inventory_.leases_heard(Clock::now()));
  std::optional<LeaseRecord> record;
  if (object != nullptr) record = read_node_lease(*object);
  const std::string node = name.substr(prefix.size());
  // What a first list holds may be of the machine that had this name before.
  const bool renewed = record.has_value() && synced_kinds_ == kinds;
  enqueue(inventory_.node_lease_changed(node, std::move(record), Clock::now(),
                                        std::chrono::system_clock::now()));
  if (taints_ && renewed) taints_->renewed(node);
}

void Controller::kind_synced() {
  const std::scoped_lock lock(mutex_);
  if (++synced_kinds_ == kinds)
    log_->info("operation=sync volumes={}", inventory_.counts().volumes);
  changed_.notify_all();
}

void Controller::look() {
  const auto set = [this](const char* name, const char* help, double value,
                          const metrics::Labels& labels = {}) {
    metrics_.registry.gauge(name, help, labels).set(value);
  };
  Inventory::Counts counts;
  size_t depth = 0;
  {
    const std::scoped_lock lock(mutex_);
    counts = inventory_.counts();
    depth = queue_.size();
  }
  const auto number = [](size_t n) { return static_cast<double>(n); };
  set("ublk_controller_leader", "1 while this process leads.", leads() ? 1 : 0);
  set("ublk_controller_queue_depth", "Volumes that wait to be looked at.", number(depth));
  set("ublk_controller_volumes", "Volumes there are.", number(counts.volumes));
  set("ublk_controller_unbound_volumes", "Volumes that no node has.", number(counts.unbound));
  set("ublk_controller_orphaned_volumes", "Volumes of a node that does not exist.",
      number(counts.orphaned));
  set("ublk_controller_nodes", "Nodes there are.", number(counts.nodes));
  set("ublk_controller_silent_nodes", "Nodes that do not renew their Lease.",
      number(counts.silent_nodes));
  set("ublk_controller_not_ready_nodes", "Nodes that are heard but say that ublk does not work.",
      number(counts.not_ready_nodes));
  if (taints_)
    set("ublk_controller_tainted_nodes", "Nodes that have the start-up taint.",
        number(taints_->tainted()));
  const auto count = [this](const char* name, const char* help, uint64_t value, const char* what) {
    const auto counter = metrics_.registry.counter(name, help, {{"resource", what}});
    counter.add(static_cast<double>(value) - counter.value());
  };
  for (size_t i = 0; i < kinds; ++i) {
    set("ublk_controller_watch_age_seconds", "Since the API server was last heard, by resource.",
        std::chrono::duration<double>(reflectors_[i]->heard_before()).count(),
        {{"resource", watched[i]}});
    const auto counters = reflectors_[i]->counters();
    count("ublk_controller_lists_total", "Lists that were begun, by resource.", counters.lists,
          watched[i]);
    count("ublk_controller_watches_total", "Watches that were begun, by resource.",
          counters.watches, watched[i]);
    count("ublk_controller_watch_expired_total",
          "Lists and watches that the server had forgotten the past of (410), by resource.",
          counters.expired, watched[i]);
  }
}

// --- what goes out

void Controller::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const auto now = Clock::now();
    enqueue(inventory_.time_passed(now));
    const bool may_act = synced_kinds_ == kinds && elector_.leads();
    const auto name = may_act ? queue_.take(now) : std::nullopt;
    if (!name) {
      auto wake = inventory_.next_change(now);
      const auto due = may_act ? queue_.next() : std::nullopt;
      if (due && (!wake || *due < *wake)) wake = due;
      if (wake)
        changed_.wait_until(lock, *wake);
      else
        changed_.wait(lock);
      continue;
    }
    const VolumeRecord* known = inventory_.volume(*name);
    if (known == nullptr) {
      refusals_.erase(*name);
      settle(*name, Outcome::done);
      continue;
    }
    metrics_.reconciles.add();
    const Plan todo = plan(*known, inventory_);
    VolumeRecord volume = *known;
    busy_since_ = now;
    lock.unlock();
    const Outcome outcome = execute(std::move(volume), todo);
    lock.lock();
    busy_since_.reset();
    settle(*name, outcome);
  }
}

void Controller::settle(const std::string& name, Outcome outcome) {
  switch (outcome) {
    case Outcome::done:
      return queue_.done(name);
    case Outcome::again:
      return queue_.again(name, Clock::now());
    case Outcome::conflict:
    case Outcome::failed:
      return queue_.failed(name, Clock::now(),
                           std::uniform_real_distribution<double>(0, 1)(random_));
  }
}

Controller::Outcome Controller::execute(VolumeRecord volume, const Plan& todo) {
  if (!todo.refusal.empty()) metrics_.bound(todo.refusal);
  if (todo.write != Write::none) {
    const auto written = write(volume, todo);
    if (!written) return outcome_of(volume, name_of(todo.write), written.error());
    log_->info("volume={} operation={} node={}", volume.name, name_of(todo.write),
               todo.write == Write::bind ? todo.node : volume.node_name);
    if (todo.write == Write::bind) metrics_.bound("Bound");
    if (todo.write != Write::remove_finalizer) {
      assume(*written);
      volume = read_volume(*written);
    }
  }
  if (!todo.conditions.empty()) {
    const auto written = write_status(volume, todo);
    if (!written) return outcome_of(volume, "status", written.error());
    metrics_.status_writes.add();
    assume(*written);
  }
  for (const auto& said : todo.events) say(volume, said);
  return todo.write == Write::bind ? Outcome::again : Outcome::done;
}

Result<json> Controller::write(const VolumeRecord& volume, const Plan& todo) {
  std::vector<std::string> finalizers = volume.finalizers;
  std::erase(finalizers, kFinalizer);
  if (todo.write != Write::remove_finalizer) finalizers.emplace_back(kFinalizer);
  json patch{
      {"metadata", {{"resourceVersion", volume.resource_version}, {"finalizers", finalizers}}}};
  if (todo.write == Write::bind) patch["spec"]["nodeName"] = todo.node;
  return client_.merge_patch(volumes().path(volume.name), patch, kFieldManager, cancel_);
}

Result<json> Controller::write_status(const VolumeRecord& volume, const Plan& todo) {
  json conditions = json::array();
  const std::string now = format_now();
  for (Condition condition : todo.conditions) {
    set_time(condition, condition.type == "Bound" ? volume.bound : volume.ready, now);
    log_->info("volume={} condition={} status={} reason={}", volume.name, condition.type,
               to_string(condition.status), condition.reason);
    conditions.push_back(to_json(condition));
  }
  const json object{
      {"apiVersion", kApiVersion},
      {"kind", kVolumeKind},
      {"metadata",
       {{"name", volume.name}, {"uid", volume.uid}, {"resourceVersion", volume.resource_version}}},
      {"status", {{"conditions", std::move(conditions)}}}};
  return client_.apply(volumes().path(volume.name, "status"), object, kFieldManager, cancel_);
}

Controller::Outcome Controller::outcome_of(const VolumeRecord& volume, const char* operation,
                                           const Error& error) {
  switch (error.err) {
    case ENOENT:  // gone: the watch tells
    case ECANCELED:
      return Outcome::done;
    case EBUSY:
      metrics_.conflicts.add();
      return Outcome::conflict;
    default:
      metrics_.errors.add();
      log_->warn("volume={} operation={} error=\"{}\" retry=true", volume.name, operation,
                 error.to_string());
      return Outcome::failed;
  }
}

void Controller::assume(const json& object) {
  VolumeRecord record = read_volume(object);
  const std::scoped_lock lock(mutex_);
  inventory_.assume(std::move(record));
}

void Controller::say(const VolumeRecord& volume, const Said& said) {
  // No condition remembers a refused release: it is said once, not with each change of the volume.
  if (said.reason == "ForceReleaseRefused") {
    auto& last = refusals_[volume.name];
    if (last == said) return;
    last = said;
  }
  events_.say({{kApiVersion, kVolumeKind, volume.name, volume.uid, ""},
               said.warning,
               said.reason,
               said.message});
}

}  // namespace ublk_operator::controller

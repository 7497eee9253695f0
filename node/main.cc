// ublk-node: the node's daemons in one program.
//   agent     reconciles the volumes of a folder and answers ublkctl
//   run       the same for a machine without systemd: starts a spawner when none answers
//   spawner   the parent of all servers
//   watchdog  the first process of a container: keeps one of the others running
//   helper    one control command that may never return, in a process that may be left behind (used
//   by the agent)
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <memory>
#include <optional>

#include "CLI/CLI.hpp"
#include "common/base/cgroup.h"
#include "common/base/file_lock.h"
#include "common/base/files.h"
#include "common/base/log.h"
#include "common/base/run_first.h"
#include "common/base/sd_notify.h"
#include "common/base/stop_signals.h"
#include "common/http/server.h"
#include "common/kube/config.h"
#include "common/kube/transport.h"
#include "common/localapi/server.h"
#include "common/metrics/metrics.h"
#include "node/agent/agent.h"
#include "node/agent/disposable.h"
#include "node/agent/folder_source.h"
#include "node/cluster/cluster_link.h"
#include "node/cluster/node_facts.h"
#include "node/cluster/pool_probes.h"
#include "node/spawner/daemon.h"
#include "node/spawner/spawner.h"
#include "node/telemetry/node_metrics.h"
#include "node/ublk/driver.h"
#include "node/watchdog/watchdog.h"

namespace ublk_operator {
namespace {

constexpr int nice_default = -10;

// Where the volumes of a node in a cluster are said.
struct ClusterOptions {
  bool used = false;
  std::string kubeconfig;  // empty: $KUBECONFIG, else the pod's service account
  std::string context;
  std::string node_name;
  std::string namespace_name;
  std::string holder;
};

struct NodeOptions {
  std::string log_level = "info";
  AgentOptions agent;
  ClusterOptions cluster;
  std::vector<std::string> watched;
  bool wait = false;
  bool load_driver = false;
  std::string listen;  // of /metrics, /healthz, /readyz; empty: nowhere
  std::string api_socket = kLocalApiSocket;
  std::vector<std::string> pools;
  SpawnerOptions spawner;
  std::vector<std::string> helper;
  std::optional<int> nice;
};

int fail(const Error& error) {
  std::fprintf(stderr, "ublk-node: %s\n", error.to_string().c_str());
  return 1;
}

// Beside this program, so that a build tree and an installation both work without a setting.
std::string sibling(const std::string& program) {
  char path[PATH_MAX];
  const ssize_t length = ::readlink("/proc/self/exe", path, sizeof path - 1);
  if (length <= 0) return program;
  std::string self(path, static_cast<size_t>(length));
  return self.substr(0, self.rfind('/') + 1) + program;
}

Result<void> parse_pools(const std::vector<std::string>& texts, Pools& pools) {
  for (const auto& text : texts) {
    auto parsed = parse_pool(text);
    if (!parsed) return std::move(parsed).error();
    pools[parsed->first] = std::move(parsed->second);
  }
  return {};
}

// Where I/O fails at once (recovery.mode FailIO) applications try again as fast as they can, and
// would keep the CPUs from what brings their disk back. Before any thread is made; servers inherit
// it.
void raise_priority(std::optional<int> nice, const Logger& log) {
  if (!nice && ::getpriority(PRIO_PROCESS, 0) != 0) return;  // as whoever started it wants it
  if (::setpriority(PRIO_PROCESS, 0, nice.value_or(nice_default)) == 0) return;
  log->warn(
      "operation=setpriority nice={} error=\"{}\" advice=\"grant CAP_SYS_NICE, or start it with "
      "that nice value\"",
      nice.value_or(nice_default), errno_name(errno));
}

// Whether the threads that bring a device back may run first; asked once, so that it is said once.
bool may_run_first(const Logger& log) {
  Result<void> possible;
  const auto process = static_cast<id_t>(::getpid());
  std::thread([&] {
    possible = run_first(pthread_self());
    give_way();
    run_as_others();
    if (possible && ::getpriority(PRIO_PROCESS, 0) != ::getpriority(PRIO_PROCESS, process))
      possible = Error{EPERM, "setpriority", "", "a thread that gave way cannot go back"};
  }).join();
  if (possible) return true;
  log->warn(
      "operation=run_first error=\"{}\" advice=\"grant CAP_SYS_NICE, or start it with "
      "--normal-scheduling\"",
      possible.error().to_string());
  return false;
}

// Some 20 descriptors a volume.
void raise_open_files(const Logger& log) {
  constexpr rlim_t wanted = 65536;
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= wanted) return;
  files.rlim_cur = wanted;
  files.rlim_max = std::max(files.rlim_max, wanted);
  if (::setrlimit(RLIMIT_NOFILE, &files) == 0) return;
  files.rlim_cur = files.rlim_max = std::min(files.rlim_max, wanted);
  (void)::setrlimit(RLIMIT_NOFILE, &files);
  log->warn("operation=setrlimit open_files={} wanted={}", files.rlim_cur, wanted);
}

Result<std::unique_ptr<ClusterLink>> make_cluster_link(const NodeOptions& options,
                                                       const Logger& log) {
  const ClusterOptions& cluster = options.cluster;
  auto config = kube::default_config(cluster.kubeconfig, cluster.context);
  if (!config) return config.error();
  auto transport = kube::make_transport(*config);
  if (!transport) return std::move(transport).error();
  ClusterLinkOptions link;
  link.node_name = cluster.node_name.empty() ? machine_name() : cluster.node_name;
  link.namespace_name =
      cluster.namespace_name.empty() ? config->namespace_name : cluster.namespace_name;
  link.holder = cluster.holder.empty() ? link.node_name : cluster.holder;
  const auto pools = std::make_shared<PoolProbes>(options.agent.pools, "/proc/self/exe");
  link.node_facts = [pools] { return node_status(look(), pools->look(), UBLK_VERSION); };
  log->info("operation=start source={} node={}", config->server, link.node_name);
  return std::make_unique<ClusterLink>(std::move(*transport), std::move(link), log);
}

// What an agent shows over HTTP. Stopped before the agent ends.
struct Telemetry {
  metrics::Registry registry;
  std::optional<NodeMetrics> metrics;
  std::unique_ptr<http::HttpServer> server;

  [[nodiscard]] Result<void> start(const std::string& address, Agent& agent,
                                   std::function<std::chrono::milliseconds()> heard_before) {
    metrics.emplace(registry, agent, std::move(heard_before));
    http::Pages pages;
    pages["/healthz"] = [] { return http::Reply{200, "ok\n"}; };
    pages["/readyz"] = [&agent] {
      return agent.has_settled()
                 ? http::Reply{200, "ok\n"}
                 : http::Reply{503, "not every volume that was served before is served again\n"};
    };
    pages["/metrics"] = [this] {
      metrics->refresh();
      return http::Reply{200, registry.text(), metrics::Registry::content_type};
    };
    auto listening = http::HttpServer::listen(address, std::move(pages));
    if (!listening) return std::move(listening).error();
    server = std::move(*listening);
    return {};
  }
  void stop() {
    server.reset();
    metrics.reset();
  }
};

int run_agent(NodeOptions& options, bool with_spawner) {
  auto stop = stop_signals();
  if (!stop) return fail(stop.error());
  auto log = make_logger("ublk-node", options.log_level);
  if (!log) return fail(log.error());
  raise_priority(options.nice, *log);
  options.agent.run_first = options.agent.run_first && may_run_first(*log);
  raise_open_files(*log);
  if (auto parsed = parse_pools(options.pools, options.agent.pools); !parsed)
    return fail(parsed.error());
  if (options.agent.server_program.empty()) options.agent.server_program = sibling("ublk-server");
  if (with_spawner) {
    options.agent.start_spawner = [&options, logger = *log]() -> Result<void> {
      logger->info("operation=start_spawner socket={}", options.agent.spawner_socket);
      SpawnerDaemonOptions daemon;
      daemon.arguments = {"spawner", "--socket", options.agent.spawner_socket};  // inherits nice
      daemon.log_file = options.agent.run_dir + "/spawner.log";
      return start_spawner_daemon(daemon);
    };
  }
  Telemetry telemetry;
  options.agent.on_failure = [&telemetry](const std::string& reason) {
    NodeMetrics::count_failure(telemetry.registry, reason);
  };
  options.agent.on_ready = [logger = *log] {
    if (auto told = sd_notify("READY=1"); !told)
      logger->warn("operation=sd_notify error=\"{}\"", told.error().to_string());
  };
  if (options.load_driver) {
    auto loaded = load_driver();
    // In a cluster the node says so itself, and goes on when somebody loads it.
    if (!loaded && !options.cluster.used) return fail(loaded.error());
    if (!loaded) (*log)->warn("operation=load_driver error=\"{}\"", loaded.error().to_string());
  }
  std::unique_ptr<ClusterLink> link;  // outlives the agent, whose source of volumes it has
  if (options.cluster.used) {
    auto made = make_cluster_link(options, *log);
    if (!made) return fail(made.error());
    link = std::move(*made);
    options.agent.on_event = [&link](const VolumeEvent& event) { link->say_event(event); };
    options.agent.open_source = [&link]() -> Result<std::unique_ptr<VolumeSource>> {
      return link->source();
    };
    options.agent.await_driver = true;
    options.agent.on_driver = [&link] { link->node_changed(); };
  }
  if (options.wait) options.agent.wait_fd = stop->get();
  auto agent = Agent::create(options.agent, *log);
  if (agent.err() == ECANCELED) return 0;
  if (!agent) return fail(agent.error());
  if (link) link->start(**agent);
  if (!options.listen.empty()) {
    auto started = telemetry.start(options.listen, **agent,
                                   link ? [&link] { return link->heard_before(); }
                                        : std::function<std::chrono::milliseconds()>());
    if (!started) {
      telemetry.stop();
      if (link) link->stop();
      return fail(started.error());
    }
  }
  LocalApiServer::Options api;
  api.path = options.api_socket;
  auto server = LocalApiServer::start(**agent, api, *log);
  if (!server) {
    telemetry.stop();
    if (link) link->stop();
    return fail(server.error());
  }
  auto done = (*agent)->run(stop->get());
  (*server)->stop();
  telemetry.stop();
  if (link) link->stop();
  if (!done) return fail(done.error());
  (*log)->info("operation=stop servers=left_serving");
  return 0;
}

int spawner_main(const NodeOptions& options) {
  auto log = make_logger("ublk-spawner", options.log_level);
  if (!log) return fail(log.error());
  raise_priority(options.nice, *log);
  std::optional<FileLock> alone;
  if (options.wait) {
    auto stop = stop_signals();
    if (!stop) return fail(stop.error());
    const std::string& socket = options.spawner.socket_path;
    if (auto made = make_directories(socket.substr(0, socket.rfind('/'))); !made)
      return fail(made.error());
    // Not SOCKET.lock, which whoever listens there takes for as long as that takes.
    auto lock = FileLock::wait(socket + ".owner", stop->get());
    if (lock.err() == ECANCELED) return 0;
    if (!lock) return fail(lock.error());
    alone = std::move(*lock);
  }
  return run_spawner(options.spawner, *log);
}

// While one pod goes and the next one comes both run for a while.
void add_wait_option(CLI::App& command, NodeOptions& options) {
  command.add_flag("--wait", options.wait,
                   "while another one of this node runs, wait for its end instead of failing");
}

void add_cluster_options(CLI::App& command, ClusterOptions& cluster) {
  constexpr const char* group = "In a cluster";
  command
      .add_flag("--cluster", cluster.used,
                "the volumes are the UblkVolumes of the API server, not a folder")
      ->group(group);
  const auto add = [&](const char* name, std::string& value, const char* what) {
    return command.add_option(name, value, what)->group(group);
  };
  add("--node-name", cluster.node_name, "this node's name in the cluster (default: the machine's)")
      ->envname("NODE_NAME");
  add("--namespace", cluster.namespace_name, "where the node's Lease is (default: the pod's)")
      ->envname("POD_NAMESPACE");
  add("--holder", cluster.holder, "who holds that Lease (default: the node)")->envname("POD_NAME");
  add("--kubeconfig", cluster.kubeconfig,
      "which API server (default: $KUBECONFIG, else the pod's service account)");
  add("--context", cluster.context, "of the kubeconfig (default: its current one)");
}

int watchdog_main(const NodeOptions& options) {
  auto log = make_logger("ublk-watchdog", options.log_level);
  if (!log) return fail(log.error());
  auto cgroup = own_cgroup_folder();
  if (auto alone = cgroup ? survive_out_of_memory(*cgroup) : cgroup.error(); !alone)
    (*log)->warn("operation=survive_out_of_memory error=\"{}\"", alone.error().to_string());
  auto status = run_watchdog(options.watched, *log);
  return status ? *status : fail(status.error());
}

void add_agent_options(CLI::App& command, NodeOptions& options) {
  auto& agent = options.agent;
  command.add_option("--volumes", agent.volumes_dir, "folder of UblkVolume manifests")
      ->capture_default_str();
  command.add_option("--pool", options.pools,
                     "NAME=/folder[,require-mount]: where backend.file.pool NAME lies; with "
                     "require-mount no file is made there while it is no mount point (repeatable)");
  command.add_option("--state", agent.state_dir, "folder for what must survive a reboot")
      ->capture_default_str();
  command.add_option("--run", agent.run_dir, "folder for what ends with the boot")
      ->capture_default_str();
  command.add_option("--spawner", agent.spawner_socket, "socket of the spawner")
      ->capture_default_str();
  command.add_option("--socket", options.api_socket, "socket for ublkctl")->capture_default_str();
  command.add_flag("--load-driver", options.load_driver,
                   "modprobe ublk_drv when the driver is not there");
  command.add_option("--listen", options.listen,
                     "ADDRESS:PORT of /metrics, /healthz and /readyz (default: none)");
  command.add_option("--server", agent.server_program,
                     "path of ublk-server (default: beside this program)");
  command.add_option("--standbys", agent.standby_count, "warm servers kept for the next recovery")
      ->capture_default_str()
      ->check(CLI::Range(0, 16));
  agent.expedite_grace_periods = true;
  command.add_flag(
      "!--normal-grace-periods", agent.expedite_grace_periods,
      "leave /sys/kernel/rcu_expedited alone (default: on while a device waits for its "
      "next server, a second at most)");
  agent.run_first = true;
  command.add_flag("!--normal-scheduling", agent.run_first,
                   "let no thread run at a real-time priority (default: those that bring a device "
                   "back, for a second at most)");
  command
      .add_option("--test-hooks", agent.test_hooks_dir,
                  "folder of FIFOs at which tests stop a recovery")
      ->group("");
}

int node_main(int argc, char** argv) {
  NodeOptions options;
  CLI::App app{
      "ublk-operator's node daemons: block volumes that survive the death of their server"};
  app.require_subcommand(1);
  app.add_option("--log-level", options.log_level, "debug, info, warn or error")
      ->capture_default_str();

  app.add_option(
         "--nice", options.nice,
         "priority of agent, spawner and servers (default -10, unless started with another)")
      ->check(CLI::Range(-20, 19));
  app.fallthrough();

  auto* agent = app.add_subcommand("agent", "make and keep real what the manifests want");
  add_agent_options(*agent, options);
  add_wait_option(*agent, options);
  add_cluster_options(*agent, options.cluster);
  auto* run = app.add_subcommand(
      "run", "as agent, on a machine without systemd: starts a spawner when none answers");
  add_agent_options(*run, options);
  auto* spawner = app.add_subcommand("spawner", "the parent of all servers");
  spawner->add_option("--socket", options.spawner.socket_path, "where agents connect")
      ->capture_default_str();
  add_wait_option(*spawner, options);
  spawner->add_option("--uid-base", options.spawner.uid_base, "first uid for servers")
      ->capture_default_str();
  spawner->add_option("--uid-count", options.spawner.uid_count, "how many uids")
      ->capture_default_str();
  auto* watchdog = app.add_subcommand(
      "watchdog",
      "keep a program running: the first process of a container (watchdog -- PROGRAM...)");
  watchdog->add_option("command", options.watched, "the program and its arguments")->required();
  auto* helper = app.add_subcommand(
      "helper", "one control command in a process of its own (used by the agent)");
  helper->group("");
  helper->add_option("words", options.helper);

  CLI11_PARSE(app, argc, argv);
  if (*agent) return run_agent(options, false);
  if (*run) return run_agent(options, true);
  if (*spawner) return spawner_main(options);
  if (*watchdog) return watchdog_main(options);
  return run_helper(options.helper);
}

}  // namespace
}  // namespace ublk_operator

int main(int argc, char** argv) { return ublk_operator::node_main(argc, argv); }

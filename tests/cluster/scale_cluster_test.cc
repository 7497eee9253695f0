// How the operator scales on a real API server: ublk-controller, twice as installed, and whole
// agents on fake kernels, each with a token that is bound to its node. Every volume becomes Ready;
// then nothing more is asked of the server than heartbeats and a watch a client and minute.
// Sizes    UBLK_SCALE_VOLUMES, UBLK_SCALE_NODES, UBLK_SCALE_QUIET_SECONDS; 5000, 50 and 300 take
//          ten minutes, what is the default one.
#include <gmock/gmock.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "common/base/files.h"
#include "common/base/strings.h"
#include "common/kube/config.h"
#include "tests/cluster/cluster.h"
#include "tests/cluster/request_counts.h"

extern char** environ;

namespace ublk_operator::cluster {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr unsigned nodes_a_process = 10;  // for the descriptors: some ten a volume
constexpr unsigned controllers = 2;
constexpr uint64_t controller_kib_max = 100 << 10;
constexpr const char* space = "ublk-system";

const kube::Resource kPods{"", "v1", "pods", space};

unsigned setting(const char* name, unsigned otherwise) {
  const char* text = std::getenv(name);
  const int value = text == nullptr ? 0 : std::atoi(text);  // NOLINT(cert-err34-c): 0 is no size
  return value > 0 ? static_cast<unsigned>(value) : otherwise;
}

// A program of ours, killed at the latest with this object.
class Process {
 public:
  explicit Process(std::vector<std::string> arguments) {
    std::vector<char*> argv;
    for (auto& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    EXPECT_EQ(::posix_spawn(&pid_, argv[0], nullptr, nullptr, argv.data(), environ), 0);
  }
  Process(Process&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  Process& operator=(Process&&) = delete;
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() { end(SIGKILL); }

  void end(int signal) {
    if (pid_ <= 0) return;
    ::kill(pid_, signal);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  // The most that was ever resident; 0: it has ended.
  [[nodiscard]] uint64_t peak_kib() const {
    std::ifstream status("/proc/" + std::to_string(pid_) + "/status");
    for (std::string line; std::getline(status, line);)
      if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6));
    return 0;
  }
  [[nodiscard]] double cpu_seconds() const {
    const auto text = read_file("/proc/" + std::to_string(pid_) + "/stat", 4096);
    if (!text) return 0;
    constexpr size_t utime = 14 - 3;  // fields after the name in parentheses, proc(5)
    const auto fields = split(std::string_view(*text).substr(text->rfind(')') + 2), ' ');
    const auto ticks =
        std::stoull(std::string(fields.at(utime))) + std::stoull(std::string(fields.at(utime + 1)));
    return static_cast<double>(ticks) / static_cast<double>(::sysconf(_SC_CLK_TCK));
  }

 private:
  pid_t pid_ = -1;
};

// What a quiet time of `seconds` allows of each kind of request.
class Quiet {
 public:
  Quiet(unsigned nodes, double seconds)
      : nodes_(nodes), seconds_(seconds), minutes_(std::ceil(seconds / 60)) {}

  // Why that many are too many, or too few; empty: they are not.
  [[nodiscard]] std::string offence(const RequestKind& kind, uint64_t count) const {
    const auto most = [&](double allowed, const char* why) {
      return static_cast<double>(count) <= allowed
                 ? ""
                 : "at most " + std::to_string(std::llround(allowed)) + ": " + why;
    };
    const bool ours = kind.resource.find(".ublk.dev") != std::string::npos;
    if (kind.resource == "ublkvolumes.ublk.dev" && kind.verb == "WATCH")
      return most((nodes_ + controllers) * minutes_, "a watch a client and minute");
    if (kind.resource == "ublknodes.ublk.dev" && kind.verb == "WATCH")
      return most(controllers * minutes_, "a watch a controller and minute");
    if (kind.resource == "ublknodes.ublk.dev/status" && kind.verb == "APPLY")
      return most(nodes_ * std::ceil(seconds_ / 480), "a node says the same every 8 to 12 minutes");
    if (ours) return "none at all";
    if (kind.resource == leases && kind.verb == "APPLY")
      return static_cast<double>(count) < nodes_ * (seconds_ / 12 - 1)
                 ? "more: every node renews its Lease every 8 to 12 s"
                 : most(nodes_ * (seconds_ / 8 + 1), "a heartbeat a node every 8 to 12 s");
    if (kind.resource == leases && kind.verb == "WATCH")
      return most(controllers * minutes_ + server_watches, "a watch a controller and minute");
    if (kind.resource == leases && kind.verb == "PUT")
      return most(seconds_ / 2 + seconds_ / 10 + 2, "the leader's every 2 s, the server's own");
    if (server_does(kind)) return "";
    return "none at all, and not even the API server does that by itself";
  }

 private:
  static constexpr const char* leases = "leases.coordination.k8s.io";
  static constexpr double server_watches = 2;
  // What an API server without any client asks of itself, and this test of it. It tries for ever to
  // write where it is itself, which may not be a loopback address; and it looks for ports of
  // services that leaked every three minutes, which none of our programs may list.
  static bool server_does(const RequestKind& kind) {
    if (kind.resource == "services" && kind.verb == "LIST") return true;
    if (kind.resource == "endpoints") return kind.verb == "GET" || kind.verb == "POST";
    if (kind.resource.empty() || kind.resource == leases) return kind.verb == "GET";
    return kind.verb == "WATCH";
  }

  const double nodes_;
  const double seconds_;
  const double minutes_;
};

double cpu_seconds(const std::vector<Process>& processes) {
  double sum = 0;
  for (const auto& process : processes) sum += process.cpu_seconds();
  return sum;
}

// How far the volumes are, by watch.
class Progress {
 public:
  explicit Progress(const std::shared_ptr<kube::Transport>& transport)
      : reflector_(
            transport, kVolumes, "", Watcher::quick(),
            [this](const std::string& name, const json* object) {
              const std::scoped_lock lock(mutex_);
              if (object == nullptr) return;
              note(bound_, bound_at_, name, !node_of(*object).empty());
              note(ready_, ready_at_, name,
                   condition(*object, "Ready").value("status", "") == "True");
              changed_.notify_all();
            },
            [] {}, null_logger()) {
    reflector_.start();
  }
  [[nodiscard]] bool all_ready(size_t count, std::chrono::seconds time) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, time, [&] { return ready_.size() == count; });
  }
  // When the last volume became so.
  [[nodiscard]] Clock::time_point bound_at() { return at(bound_at_); }
  [[nodiscard]] Clock::time_point ready_at() { return at(ready_at_); }
  [[nodiscard]] std::string counts() {
    const std::scoped_lock lock(mutex_);
    return std::to_string(bound_.size()) + " bound, " + std::to_string(ready_.size()) + " ready";
  }

 private:
  static std::string node_of(const json& object) {
    return object.value("spec", json::object()).value("nodeName", "");
  }
  static void note(std::set<std::string>& names, Clock::time_point& last, const std::string& name,
                   bool is_so) {
    if (!is_so)
      names.erase(name);
    else if (names.insert(name).second)
      last = Clock::now();
  }
  Clock::time_point at(const Clock::time_point& what) {
    const std::scoped_lock lock(mutex_);
    return what;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::set<std::string> bound_;
  std::set<std::string> ready_;
  Clock::time_point bound_at_;
  Clock::time_point ready_at_;
  kube::Reflector reflector_;
};

class ScaleClusterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!available()) GTEST_SKIP() << "no KUBECONFIG; tests/cluster/apiserver.sh gives one";
    if (::geteuid() != 0)
      GTEST_SKIP() << "the device nodes of simulated nodes are for root to make";
    std::string pattern = ::testing::TempDir() + "ublk-scale.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    cluster_ = std::make_unique<Cluster>();
    cluster_->install();
    const auto config = kube::default_config("");
    ASSERT_TRUE(config.ok());
    server_ = config->server;
    std::ofstream(folder_ + "/ca.crt") << config->authority_data;
  }
  void TearDown() override {
    for (auto& process : agents_) process.end(SIGTERM);
    for (auto& process : controllers_) process.end(SIGTERM);
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  static std::string node_name(unsigned node) { return "sim" + std::to_string(node); }

  // As the kubelet gives it to the node's pod: by it, the API server knows the node.
  void make_credential(const std::string& node) {
    const std::string pod = "ublk-node-" + node;
    cluster_->create(kPods.path(), {{"apiVersion", "v1"},
                                    {"kind", "Pod"},
                                    {"metadata", {{"name", pod}}},
                                    {"spec",
                                     {{"serviceAccountName", "ublk-node"},
                                      {"nodeName", node},
                                      {"containers", {{{"name", "agent"}, {"image", "none"}}}}}}});
    const auto made = cluster_->client().create(
        kube::Resource{"", "v1", "serviceaccounts", space}.path("ublk-node", "token"),
        {{"apiVersion", "authentication.k8s.io/v1"},
         {"kind", "TokenRequest"},
         {"spec",
          {{"expirationSeconds", 7200},
           {"boundObjectRef", {{"apiVersion", "v1"}, {"kind", "Pod"}, {"name", pod}}}}}},
        cluster_->never());
    ASSERT_TRUE(made.ok()) << made.error().to_string();
    // JSON is YAML.
    std::ofstream(folder_ + "/" + node + ".kubeconfig") << json{
        {"clusters",
         {{{"name", "test"},
           {"cluster", {{"server", server_}, {"certificate-authority", "ca.crt"}}}}}},
        {"users", {{{"name", "agent"}, {"user", {{"token", made->at("status").at("token")}}}}}},
        {"contexts", {{{"name", "agent"}, {"context", {{"cluster", "test"}, {"user", "agent"}}}}}},
        {"current-context", "agent"}};
  }

  void start_controllers() {
    const std::string kubeconfig = cluster_->kubeconfig_of("ublk-controller");
    // apiserver.sh has the first three.
    const unsigned port = setting("UBLK_APISERVER_PORT", 18543) + 10;
    for (unsigned i = 0; i < controllers; ++i)
      controllers_.emplace_back(std::vector<std::string>{
          UBLK_CONTROLLER, "--kubeconfig", kubeconfig, "--namespace", space, "--identity",
          "controller" + std::to_string(i), "--listen", "127.0.0.1:" + std::to_string(port + i),
          "--log-level", "warn"});
  }

  void start_nodes() {
    Watcher nodes(cluster_->transport(), kNodes);
    for (unsigned first = 0; first < nodes_; first += nodes_a_process) {
      std::vector<std::string> arguments{UBLK_SIMULATED_NODES, folder_};
      for (unsigned node = first; node < std::min(nodes_, first + nodes_a_process); ++node) {
        make_credential(node_name(node));
        arguments.push_back(node_name(node));
      }
      agents_.emplace_back(std::move(arguments));
    }
    for (unsigned node = 0; node < nodes_; ++node)
      ASSERT_TRUE(nodes.wait(node_name(node), [](const json& o) {
        return condition(o, "Ready").value("status", "") == "True";
      })) << node_name(node);
  }

  // Every tenth names its node, every seventh has no file; the rest are the controller's to place.
  void create_volumes() {
    std::atomic<unsigned> next = 0;
    std::vector<std::thread> clients;
    for (unsigned i = 0; i < 4; ++i)
      clients.emplace_back([&] {
        for (unsigned volume = next++; volume < volumes_; volume = next++) {
          const std::string name = "v" + std::to_string(volume);
          json spec{{"size", "1Gi"}};
          if (volume % 7 == 0)
            spec["backend"]["null"] = json::object();
          else
            spec["backend"]["file"] = {{"pool", "default"}, {"path", name}};
          if (volume % 10 == 0) spec["nodeName"] = node_name(volume / 10 % nodes_);
          cluster_->create(kVolumes.path(), {{"apiVersion", "ublk.dev/v1alpha1"},
                                             {"kind", "UblkVolume"},
                                             {"metadata", {{"name", name}}},
                                             {"spec", spec}});
        }
      });
    for (auto& client : clients) client.join();
  }

  RequestCounts counts() {
    const auto page =
        cluster_->transport()->call({"GET", "/metrics", "", ""}, 30s, cluster_->never());
    EXPECT_TRUE(page.ok() && page->status == 200);
    return page ? parse_request_counts(page->body) : RequestCounts{};
  }

  // Events and the last words of a status still come for a while.
  void wait_until_written() {
    const auto begun = Clock::now();
    auto before = counts();
    while (seconds_since(begun) < 300) {
      std::this_thread::sleep_for(5s);
      auto after = counts();
      const auto more = growth(before, after);
      const bool writes = std::any_of(more.begin(), more.end(), [](const auto& entry) {
        const std::string& resource = entry.first.resource;
        return resource == "events" || resource.find(".ublk.dev/status") != std::string::npos;
      });
      if (!writes) {
        std::printf("quiet %.0f s after that\n", seconds_since(begun));
        return;
      }
      before = std::move(after);
    }
    FAIL() << "still written after 300 s:\n" << to_string(growth(before, counts()));
  }

  const unsigned volumes_ = setting("UBLK_SCALE_VOLUMES", 300);
  const unsigned nodes_ = setting("UBLK_SCALE_NODES", 10);
  const unsigned quiet_seconds_ = setting("UBLK_SCALE_QUIET_SECONDS", 30);
  std::string folder_;
  std::string server_;
  std::unique_ptr<Cluster> cluster_;
  std::vector<Process> controllers_;
  std::vector<Process> agents_;
};

TEST_F(ScaleClusterTest, AllBecomeReadyAndThenOnlyHeartbeatsAndWatchesAreAsked) {
  start_controllers();
  start_nodes();
  if (HasFatalFailure()) return;
  const auto at_start = counts();
  const auto begun = Clock::now();
  {
    Progress progress(cluster_->transport());
    create_volumes();
    const double created = seconds_since(begun);
    ASSERT_TRUE(progress.all_ready(volumes_, 900s)) << progress.counts();
    const auto after = [&](Clock::time_point when) {
      return std::chrono::duration<double>(when - begun).count();
    };
    std::printf(
        "%u volumes on %u nodes: created in %.1f s, all bound after %.1f s, Ready after %.1f s\n",
        volumes_, nodes_, created, after(progress.bound_at()), after(progress.ready_at()));
  }
  std::printf("CPU until then: controllers %.1f s, agents %.1f s\n", cpu_seconds(controllers_),
              cpu_seconds(agents_));
  wait_until_written();
  if (HasFatalFailure()) return;
  auto until_then = growth(at_start, counts());
  std::erase_if(until_then, [](const auto& entry) {
    return entry.first.resource != "events" &&
           entry.first.resource.find(".ublk.dev") == std::string::npos;
  });
  std::printf("requests until then:\n%s", to_string(until_then).c_str());

  const double controllers_cpu = cpu_seconds(controllers_);
  const double agents_cpu = cpu_seconds(agents_);
  const auto quiet = Clock::now();
  const auto before = counts();
  std::this_thread::sleep_for(std::chrono::seconds(quiet_seconds_));
  const auto more = growth(before, counts());
  const double seconds = seconds_since(quiet);
  std::printf("requests in %.1f s of quiet:\n%s", seconds, to_string(more).c_str());
  const Quiet allowed(nodes_, seconds);
  for (const auto& [kind, count] : more)
    EXPECT_EQ(allowed.offence(kind, count), "")
        << count << " " << kind.verb << " " << kind.resource;
  EXPECT_TRUE(more.contains({"APPLY", "leases.coordination.k8s.io"})) << "nobody is alive";
  std::printf("CPU in that time: controllers %.2f s, agents %.2f s\n",
              cpu_seconds(controllers_) - controllers_cpu, cpu_seconds(agents_) - agents_cpu);
  for (const auto& process : controllers_) {
    std::printf("controller: at most %.1f MiB\n", static_cast<double>(process.peak_kib()) / 1024);
    EXPECT_GT(process.peak_kib(), 0U) << "it has ended";
    EXPECT_LE(process.peak_kib(), controller_kib_max);
  }
  for (const auto& process : agents_) {
    std::printf("process of agents: at most %.1f MiB\n",
                static_cast<double>(process.peak_kib()) / 1024);
    EXPECT_GT(process.peak_kib(), 0U) << "it has ended";
  }
}

}  // namespace
}  // namespace ublk_operator::cluster

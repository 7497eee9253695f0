#include "tests/cluster/cluster.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "common/kube/config.h"

namespace ublk_operator::cluster {

using nlohmann::json;

const kube::Resource kVolumes{"ublk.dev", "v1alpha1", "ublkvolumes", ""};
const kube::Resource kNodes{"ublk.dev", "v1alpha1", "ublknodes", ""};

namespace {

kube::ClusterConfig administrator() {
  auto config = kube::default_config("");
  if (!config) panic(config.error().to_string(), __FILE__, __LINE__);
  return std::move(config).value();
}

std::shared_ptr<kube::Transport> connect() {
  auto transport = kube::make_transport(administrator());
  if (!transport) panic(transport.error().to_string(), __FILE__, __LINE__);
  return std::move(transport).value();
}

void run(const std::string& command) {
  ASSERT_EQ(std::system(command.c_str()), 0) << command;  // NOLINT: a fixed script of the tests
}

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

bool available() { return !variable("KUBECONFIG").empty(); }

double seconds_since(std::chrono::steady_clock::time_point begun) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
}

int api_port() {
  const std::string server = administrator().server;
  return std::stoi(server.substr(server.rfind(':') + 1));
}

Cluster::Cluster() : transport_(connect()), client_(transport_) {}

void Cluster::install() {
  run("kubectl apply --server-side -f " UBLK_SOURCE_DIR "/manifests/install.yaml >/dev/null");
  run("kubectl wait --for=condition=Established --timeout=60s crd/ublkvolumes.ublk.dev "
      "crd/ublknodes.ublk.dev >/dev/null");
}

std::string Cluster::kubeconfig_of(const std::string& service_account) {
  const std::string own = variable("KUBECONFIG");
  std::string file = own + "." + service_account;
  // The same cluster, another user.
  run("cp " + own + " " + file + " && kubectl --kubeconfig " + file +
      " config set-credentials account --token=\"$(kubectl -n ublk-system create token " +
      service_account + " --duration=1h)\" >/dev/null && kubectl --kubeconfig " + file +
      " config set-context --current --user=account >/dev/null");
  return file;
}

std::string Cluster::kubeconfig_through(int port, const std::string& kubeconfig) {
  const std::string from = kubeconfig.empty() ? variable("KUBECONFIG") : kubeconfig;
  const std::string port_text = std::to_string(port);
  std::string file = from + "." + port_text;
  const std::string config = "kubectl --kubeconfig " + file + " config ";
  run("cp " + from + " " + file + " && " + config + "set-cluster \"$(" + config +
      "view -o 'jsonpath={.clusters[0].name}')\" --server=https://127.0.0.1:" + port_text +
      " >/dev/null");
  return file;
}

void Cluster::create(const std::string& kind_path, const json& object) {
  const auto made = client_.create(kind_path, object, never_);
  ASSERT_TRUE(made.ok()) << made.error().to_string();
}

void Cluster::patch(const std::string& path, const json& patch) {
  const auto patched = client_.merge_patch(path, patch, "test", never_);
  ASSERT_TRUE(patched.ok()) << patched.error().to_string();
}

void Cluster::remove(const std::string& path) {
  const auto gone = client_.remove(path, never_);
  ASSERT_TRUE(gone.ok()) << gone.error().to_string();
}

json Cluster::get(const std::string& path) {
  auto got = client_.get(path, never_);
  return got ? std::move(got).value() : json();
}

void Cluster::stop_api() { run("$UBLK_CLUSTER_API stop"); }
void Cluster::start_api() {
  run("$UBLK_CLUSTER_API start");
  // The client finds out that its idle connection is dead; a GET is then sent again by itself.
  (void)client_.get("/version", never_);
}

void Cluster::compact() {
  kube::ClusterConfig config;
  config.server = variable("UBLK_CLUSTER_ETCD");
  auto etcd = kube::make_transport(config);
  ASSERT_TRUE(etcd.ok()) << etcd.error().to_string();
  // etcd's gateway speaks JSON; any range tells the revision.
  const auto range =
      (*etcd)->call({"POST", "/v3/kv/range", "application/json", R"({"key":"YQ=="})"},
                    std::chrono::seconds(10), never_);
  ASSERT_TRUE(range.ok()) << range.error().to_string();
  const std::string revision = json::parse(range->body)["header"]["revision"];
  const auto done = (*etcd)->call({"POST", "/v3/kv/compaction", "application/json",
                                   json{{"revision", revision}, {"physical", true}}.dump()},
                                  std::chrono::seconds(10), never_);
  ASSERT_TRUE(done.ok() && done->status == 200) << (done ? done->body : done.error().to_string());
}

Watcher::Watcher(std::shared_ptr<kube::Transport> transport, kube::Resource resource,
                 kube::Informer::Options options)
    : reflector_(
          std::move(transport), std::move(resource), "", options,
          [this](const std::string& name, const json* object) {
            const std::scoped_lock lock(mutex_);
            if (object == nullptr)
              objects_.erase(name);
            else
              objects_[name] = *object;
            ++changes_;
            changed_.notify_all();
          },
          [this] {
            const std::scoped_lock lock(mutex_);
            synced_ = true;
            changed_.notify_all();
          },
          null_logger()) {
  reflector_.start();
}

bool Watcher::wait(const std::string& name, const std::function<bool(const json&)>& holds,
                   std::chrono::seconds time) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, time, [&] {
    const auto known = objects_.find(name);
    return holds(known == objects_.end() ? json() : known->second);
  });
}

bool Watcher::wait_any(const std::function<bool(const json&)>& holds, std::chrono::seconds time) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, time, [&] {
    return std::any_of(objects_.begin(), objects_.end(),
                       [&](const auto& known) { return holds(known.second); });
  });
}

bool Watcher::wait_synced(std::chrono::seconds time) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, time, [&] { return synced_; });
}

json Watcher::at(const std::string& name) {
  const std::scoped_lock lock(mutex_);
  const auto known = objects_.find(name);
  return known == objects_.end() ? json() : known->second;
}

size_t Watcher::changes() {
  const std::scoped_lock lock(mutex_);
  return changes_;
}

json condition(const json& object, const std::string& type) {
  if (!object.is_object()) return json::object();
  const auto status = object.value("status", json::object());
  for (const auto& one : status.value("conditions", json::array()))
    if (one["type"] == type) return one;
  return json::object();
}

}  // namespace ublk_operator::cluster

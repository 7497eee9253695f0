// What the tests of a real API server share: a client of an administrator, and means to disturb the
// server. Given by tests/cluster/apiserver.sh (see there for the variables); without KUBECONFIG the
// tests are skipped.
#pragma once
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/kube/client.h"
#include "common/kube/informer.h"
#include "common/kube/reflector.h"

namespace ublk_operator::cluster {

extern const kube::Resource kVolumes;
extern const kube::Resource kNodes;

[[nodiscard]] double seconds_since(std::chrono::steady_clock::time_point begun);

[[nodiscard]] bool available();
[[nodiscard]] int api_port();  // the API server's, on this machine

class Cluster {
 public:
  Cluster();

  [[nodiscard]] const std::shared_ptr<kube::Transport>& transport() const { return transport_; }
  [[nodiscard]] const kube::KubeClient& client() const { return client_; }
  [[nodiscard]] const kube::Cancel& never() const { return never_; }

  // Everything that a user installs (manifests/install.yaml): definitions, roles, policies. There
  // is nobody to start its pods. Waits until the definitions are served. Once a process is enough.
  void install();
  // A kubeconfig of that service account of ublk-system, with no more rights than it has.
  [[nodiscard]] std::string kubeconfig_of(const std::string& service_account);
  // The same as `kubeconfig` (empty: the administrator's), but that its server is that port of this
  // machine.
  [[nodiscard]] std::string kubeconfig_through(int port, const std::string& kubeconfig = "");

  // --- objects; each fails the test when the server refuses
  void create(const std::string& kind_path, const nlohmann::json& object);
  // merge patch
  void patch(const std::string& path, const nlohmann::json& patch);
  void remove(const std::string& path);
  [[nodiscard]] nlohmann::json get(const std::string& path);  // null: there is none

  // --- disturbances
  void stop_api();   // SIGKILL
  void start_api();  // returns when it is ready
  // All that etcd knows of the past is gone: watches from there get 410 once the API server's own
  // memory of it is gone too, with its restart.
  void compact();

 private:
  std::shared_ptr<kube::Transport> transport_;
  kube::KubeClient client_;
  kube::Cancel never_;
};

// Changes of one kind of objects, to wait for without asking again and again.
class Watcher {
 public:
  Watcher(std::shared_ptr<kube::Transport> transport, kube::Resource resource,
          kube::Informer::Options options = quick());
  // Until `holds` of the object as it is (null: it is not there). False: not within `time`.
  [[nodiscard]] bool wait(const std::string& name,
                          const std::function<bool(const nlohmann::json&)>& holds,
                          std::chrono::seconds time = std::chrono::seconds(60));
  // Until one of the objects is as `holds` wants it.
  [[nodiscard]] bool wait_any(const std::function<bool(const nlohmann::json&)>& holds,
                              std::chrono::seconds time = std::chrono::seconds(60));
  [[nodiscard]] nlohmann::json at(const std::string& name);
  [[nodiscard]] size_t changes();  // seen so far
  [[nodiscard]] bool wait_synced(std::chrono::seconds time = std::chrono::seconds(60));
  [[nodiscard]] kube::Informer::Counters counters() const { return reflector_.counters(); }
  // A test does not wait for a back-off that grew.
  [[nodiscard]] static kube::Informer::Options quick() {
    kube::Informer::Options options;
    options.back_off_max = std::chrono::milliseconds(500);
    return options;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, nlohmann::json> objects_;
  size_t changes_ = 0;
  bool synced_ = false;
  kube::Reflector reflector_;
};

// The condition of that type; an empty object: none.
[[nodiscard]] nlohmann::json condition(const nlohmann::json& object, const std::string& type);

}  // namespace ublk_operator::cluster

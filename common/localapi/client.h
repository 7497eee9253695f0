// LocalApiClient: the agent's VolumeService, on ublkctl's side of the local API's socket.
// Shape    each call is a connection of its own, so calls from several threads do not wait for each
//          other, and a client outlives restarts of the agent. A watch has a connection and a
//          thread; when the agent goes away it waits for the socket to come back (inotify), watches
//          again, tells all volumes anew and reports those that are gone.
// Errors   those of VolumeService. ENOTCONN: nobody answers at the socket, or no permission to
//          connect; the detail says which and what to do. EFBIG, EINVAL: the manifest is too large,
//          or is not UTF-8; nothing was sent.
// Threads  every method from any thread. on_change is called from the watch's thread. unwatch not
//          from within on_change.
// Time     a call ends after `call_timeout` (ETIMEDOUT: outcome unknown).
#pragma once
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "common/localapi/protocol.h"
#include "common/localapi/service.h"

namespace ublk_operator {

class LocalApiClient : public VolumeService {
 public:
  explicit LocalApiClient(std::string path = kLocalApiSocket,
                          std::chrono::milliseconds call_timeout = std::chrono::seconds(60));
  ~LocalApiClient() override;  // ends all watches
  LocalApiClient(const LocalApiClient&) = delete;
  LocalApiClient& operator=(const LocalApiClient&) = delete;

  [[nodiscard]] std::vector<Volume> list() override;
  [[nodiscard]] Result<Volume> get(const std::string& name) override;
  [[nodiscard]] std::vector<VolumeEvent> events(const std::string& volume) override;
  [[nodiscard]] Result<std::vector<std::string>> apply(const std::string& manifest) override;
  [[nodiscard]] Result<void> remove(const std::string& name) override;
  [[nodiscard]] Result<void> stop(const std::string& name, bool stopped, bool force) override;
  [[nodiscard]] Result<void> recover(const std::string& name, bool replace_server) override;
  [[nodiscard]] Result<void> pause(const std::string& name, bool paused) override;
  [[nodiscard]] nlohmann::json support_bundle() override;
  [[nodiscard]] uint64_t watch(OnChange on_change) override;  // 0: see reachable()
  void unwatch(uint64_t id) override;
  [[nodiscard]] Result<void> reachable() override;

 private:
  class Watch;
  // ECANCELED when cancel_fd becomes readable first.
  [[nodiscard]] Result<nlohmann::json> call(const char* method, nlohmann::json params,
                                            int cancel_fd = -1) const;
  [[nodiscard]] Result<std::vector<Volume>> list_volumes(int cancel_fd = -1) const;
  void remember(Result<void> outcome);  // what reachable() says

  const std::string path_;
  const std::chrono::milliseconds call_timeout_;
  std::mutex mutex_;
  Result<void> reachable_;                              // under mutex_
  std::map<uint64_t, std::unique_ptr<Watch>> watches_;  // under mutex_
  uint64_t next_watch_ = 1;                             // under mutex_
};

}  // namespace ublk_operator

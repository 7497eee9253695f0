// WatchHub: one inotify instance and one thread for all volumes of an agent (a user may have 128
// instances by default, fs.inotify.max_user_instances, and 64 volumes are a small node). Threads
// any. A callback runs on the hub's thread, must be quick, and is never called after its Watch was
// destroyed.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "common/base/result.h"
#include "common/base/unique_fd.h"

namespace ublk_operator {

class WatchHub {
 public:
  // `mask`: IN_*; `name`: of the entry in a watched folder, empty for a watched file.
  using Callback = std::function<void(uint32_t mask, const std::string& name)>;

  [[nodiscard]] static Result<std::unique_ptr<WatchHub>> create();
  ~WatchHub();
  WatchHub(const WatchHub&) = delete;
  WatchHub& operator=(const WatchHub&) = delete;

  // Ends the subscription when destroyed.
  class Watch {
   public:
    Watch() = default;
    Watch(WatchHub* hub, uint64_t id) : hub_(hub), id_(id) {}
    Watch(Watch&& other) noexcept : hub_(std::exchange(other.hub_, nullptr)), id_(other.id_) {}
    Watch& operator=(Watch&& other) noexcept {
      if (this != &other) {
        reset();
        hub_ = std::exchange(other.hub_, nullptr);
        id_ = other.id_;
      }
      return *this;
    }
    Watch(const Watch&) = delete;
    Watch& operator=(const Watch&) = delete;
    ~Watch() { reset(); }
    void reset();

   private:
    WatchHub* hub_ = nullptr;
    uint64_t id_ = 0;
  };

  // ENOENT: nothing at `path`; ENOSPC: fs.inotify.max_user_watches is used up.
  [[nodiscard]] Result<Watch> watch(const std::string& path, uint32_t mask, Callback callback);

 private:
  struct Subscriber {
    int descriptor;
    uint32_t mask;
    Callback callback;
  };
  WatchHub(UniqueFd inotify, EventFd stop);
  void run();
  void deliver(int descriptor, uint32_t mask, const std::string& name);
  void unwatch(uint64_t id);

  UniqueFd inotify_;
  EventFd stop_;
  std::mutex mutex_;  // held while a callback runs: that is how unwatch() waits for it
  std::map<uint64_t, Subscriber> subscribers_;
  uint64_t next_id_ = 1;
  std::thread thread_;
};

}  // namespace ublk_operator

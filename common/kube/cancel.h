// Cancel: ends the calls that were given it, from any thread, now and from then on.
// Threads  any.
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

namespace ublk_operator::kube {

class Cancel {
 public:
  Cancel();
  Cancel(const Cancel&) = delete;
  Cancel& operator=(const Cancel&) = delete;
  void cancel();
  [[nodiscard]] bool canceled() const;

 private:
  struct State {
    std::mutex mutex;  // guards what follows; held while actions run
    bool canceled = false;
    uint64_t next = 0;
    std::map<uint64_t, std::function<void()>> actions;
  };

 public:
  // Until its end the action may run; its end waits for one that runs.
  class [[nodiscard]] Link {
   public:
    ~Link();
    Link(const Link&) = delete;
    Link& operator=(const Link&) = delete;

   private:
    friend class Cancel;
    Link(std::shared_ptr<State> state, uint64_t id) : state_(std::move(state)), id_(id) {}
    const std::shared_ptr<State> state_;
    const uint64_t id_;
  };
  // `action` runs once, in the thread that cancels; here, if that is past. It must not end a Link
  // of the same Cancel.
  Link on_cancel(std::function<void()> action) const;

 private:
  const std::shared_ptr<State> state_;
};

}  // namespace ublk_operator::kube

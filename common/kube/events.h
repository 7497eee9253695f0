// Events (core/v1): what happened to an object, for `kubectl describe` and `kubectl get events`.
// Shape    the same object, type, reason and message again is counted up, not listed again.
//          EventCorrelator says what to send, without I/O and clock; EventRecorder sends it from a
//          thread of its own, and say() never waits. Events of cluster-scoped objects are in the
//          namespace "default", where kubectl looks for them.
// Bounds   cached_max series are remembered, the longest unused is forgotten (and listed anew when
//          it comes again); an object may have `burst` events at once and one each `refill` after
//          that; waiting_max wait to be sent. What is beyond is dropped and counted: an event is a
//          hint, conditions are the truth.
// Errors   none to the caller; a failure is logged, the first in a row.
// Threads  EventCorrelator: one. EventRecorder: any.
// Source   client-go, tools/record (events_cache.go has the same limits).
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <variant>

#include "common/base/log.h"
#include "common/kube/client.h"

namespace ublk_operator::kube {

struct EventTarget {
  std::string api_version;
  std::string kind;
  std::string name;
  std::string uid;
  std::string namespace_name;  // empty: cluster-scoped
};

struct Event {
  EventTarget target;
  bool warning = false;
  std::string reason;   // CamelCase
  std::string message;  // one sentence
};

class EventCorrelator {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using WallTime = std::chrono::system_clock::time_point;
  struct Options {
    std::string component;  // "ublk-controller"
    std::string instance;   // the pod's or the node's name
    size_t cached_max = 1024;
    unsigned burst = 25;
    std::chrono::seconds refill{300};
  };
  struct Create {
    nlohmann::json event;
  };
  struct Count {
    std::string namespace_name;
    std::string name;
    nlohmann::json patch;
  };
  struct Drop {};
  using Step = std::variant<Create, Count, Drop>;

  explicit EventCorrelator(Options options) : options_(std::move(options)) {}

  // `random`: of which the event's name is made.
  [[nodiscard]] Step next(const Event& event, Time now, WallTime wall, uint64_t random);
  // The server does not have the event that next() counted up (it keeps them for an hour), or did
  // not take it: the next one is listed anew.
  void forget(const Event& event);

 private:
  struct Series {
    std::string key;
    std::string name;  // of the Event
    int64_t count = 0;
  };
  struct Budget {
    std::string uid;
    unsigned left = 0;
    Time refilled{};
  };
  // Least recently used last.
  template <typename T>
  struct Recent {
    std::list<T> items;
    std::map<std::string, typename std::list<T>::iterator> by_key;
  };
  [[nodiscard]] bool within_budget(const std::string& uid, Time now);

  const Options options_;
  Recent<Series> series_;
  Recent<Budget> budgets_;
};

class EventRecorder {
 public:
  static constexpr size_t waiting_max = 1024;
  static constexpr unsigned tries_max = 3;

  EventRecorder(std::shared_ptr<Transport> transport, EventCorrelator::Options options, Logger log);
  ~EventRecorder();  // what waits is dropped
  EventRecorder(const EventRecorder&) = delete;
  EventRecorder& operator=(const EventRecorder&) = delete;

  void say(Event event);
  struct Counters {
    uint64_t sent = 0;
    uint64_t dropped = 0;
  };
  [[nodiscard]] Counters counters() const;

 private:
  using Clock = std::chrono::steady_clock;
  void run();
  [[nodiscard]] Result<void> send(const Event& event);
  [[nodiscard]] bool pause(std::chrono::milliseconds time);  // false: stopping

  const KubeClient client_;
  const Logger log_;
  Cancel cancel_;
  EventCorrelator correlator_;  // by the thread
  std::mt19937_64 random_{std::random_device{}()};
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  bool stopping_ = false;
  std::deque<Event> waiting_;
  Counters counters_;
  std::thread thread_;
};

}  // namespace ublk_operator::kube

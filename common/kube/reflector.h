// Reflector: runs an Informer against an API server, in a thread of its own, for as long as it
// lives: one kind of objects, perhaps only those that a selector names.
// Shape    changes go to the listener, one after the other, from threads of the reflector.
// Errors   none to the caller: the server's absence is a matter of waiting; heard_before() says for
//          how long. The first failure in a row is logged, and its end.
// Bounds   one request at a time; a watch that hangs silently is given up 10 s after its time.
// Threads  any.
#pragma once
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <random>
#include <string>
#include <thread>

#include "common/base/log.h"
#include "common/kube/client.h"
#include "common/kube/informer.h"

namespace ublk_operator::kube {

class Reflector {
 public:
  // `selector`: as in a URL's query, "fieldSelector=spec.nodeName%3Dvm1"; empty: all.
  Reflector(std::shared_ptr<Transport> transport, Resource resource, std::string selector,
            Informer::Options options, Informer::Listener listener, std::function<void()> on_synced,
            Logger log);
  ~Reflector();  // ends the request under way; no listener is called after it
  Reflector(const Reflector&) = delete;
  Reflector& operator=(const Reflector&) = delete;

  void start();
  // The last word of the server (an answer, an event, a bookmark) is this old.
  [[nodiscard]] std::chrono::milliseconds heard_before() const;
  [[nodiscard]] Informer::Counters counters() const;

 private:
  void run();
  void publish_counters();
  void list(const Informer::List& step);
  void watch(const Informer::Watch& step);
  void wait(const Informer::Wait& step);
  void heard();
  void say(const Result<void>& how);
  [[nodiscard]] std::string query(const std::string& rest) const;

  const std::shared_ptr<Transport> transport_;
  const Resource resource_;
  const std::string selector_;
  const std::function<void()> on_synced_;
  const Logger log_;
  Cancel cancel_;
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable stopping_changed_;
  bool stopping_ = false;
  bool failing_ = false;
  Informer::Counters counters_;
  std::atomic<std::chrono::steady_clock::rep> heard_;
  Informer informer_;  // by the one request that is under way
  bool told_synced_ = false;
  std::minstd_rand random_{std::random_device{}()};
  std::thread thread_;
};

}  // namespace ublk_operator::kube

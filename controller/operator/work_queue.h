// WorkQueue: which volume is to be looked at next, and when. No clock of its own.
// Shape    a name waits once, however often it is added. After a failure it waits longer each time,
//          also when it is added meanwhile: an object whose write fails is not tried with each of
//          its changes. Names that are due come in the order in which they became so.
// Bounds   as many entries as there are names.
// Threads  one.
#pragma once
#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>

namespace ublk_operator::controller {

class WorkQueue {
 public:
  using Time = std::chrono::steady_clock::time_point;
  using milliseconds = std::chrono::milliseconds;
  struct Options {
    milliseconds back_off_initial{250};
    milliseconds back_off_max{30'000};
  };

  WorkQueue() : WorkQueue(Options{}) {}
  explicit WorkQueue(Options options) : options_(options) {}

  void add(const std::string& name, Time now);
  // The next one that is due, which does not wait any more; done(), again() or failed() follows.
  [[nodiscard]] std::optional<std::string> take(Time now);
  void done(const std::string& name);
  // To be looked at again, and nothing was wrong.
  void again(const std::string& name, Time now);
  // `random`: 0 to 1, for jitter.
  void failed(const std::string& name, Time now, double random);

  // When the next is due.
  [[nodiscard]] std::optional<Time> next() const;
  [[nodiscard]] size_t size() const { return due_.size(); }

 private:
  struct Failures {
    unsigned in_row = 0;
    Time not_before{};
  };
  void put(const std::string& name, Time at);

  const Options options_;
  uint64_t turn_ = 0;
  std::set<std::tuple<Time, uint64_t, std::string>> order_;
  std::map<std::string, std::pair<Time, uint64_t>> due_;
  std::map<std::string, Failures> failures_;
};

}  // namespace ublk_operator::controller

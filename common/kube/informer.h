// Informer: the state machine of "list, then watch", without I/O: what happened goes in, what to do
// next comes out, and meanwhile it knows which version of every name its listener was told of.
// Shape    next() says the one step to take; its outcome is told by the method named after it.
//          Changes go to the listener as they become known, a relist's deletions only when its last
//          page is there. Objects are the listener's to keep, as much of them as it needs: one of 4
//          KiB of JSON takes ten times that in memory.
// Bounds   a version a name; pages of page_limit.
// Errors   a 410 (ESTALE) lists anew at once; all else is tried again after a back-off with jitter,
//          which ends with the first success.
// Threads  one.
// Source   client-go's Reflector; Kubernetes API concepts, "Efficient detection of changes".
#pragma once
#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>

#include "common/base/result.h"
#include "nlohmann/json.hpp"

namespace ublk_operator::kube {

class Informer {
 public:
  using milliseconds = std::chrono::milliseconds;
  struct Options {
    unsigned page_limit = 500;
    milliseconds back_off_initial{200};
    milliseconds back_off_max{30'000};
    // The server ends a watch after the longer time; the first one since a list or a failure a
    // little sooner, different for each: clients that began together part, and stay apart.
    std::chrono::seconds watch_min{50};
    std::chrono::seconds watch_max{60};
  };
  struct List {
    std::string continue_token;  // empty: from the start
    unsigned limit = 0;
  };
  struct Watch {
    std::string resource_version;
    std::chrono::seconds timeout{0};
  };
  struct Wait {
    milliseconds time{0};
  };
  using Step = std::variant<List, Watch, Wait>;

  // nullptr: the object is gone. Without metadata.managedFields, which are for the server.
  using Listener = std::function<void(const std::string& name, const nlohmann::json* object)>;

  Informer(Options options, Listener listener);

  // `random`: 0 to 1, for jitter.
  [[nodiscard]] Step next(double random);
  void waited();
  // The answer to a List: a page, or why there is none.
  void listed(Result<nlohmann::json> page);
  // A line of a watch; false: the watch is of no use any more.
  [[nodiscard]] bool event(nlohmann::json event);
  // The watch ended. Ok: by the server's time limit, or because event() said so. `lasted`: a server
  // that ends every watch at once is not asked without a pause.
  void watch_ended(const Result<void>& how, milliseconds lasted);

  // Every object of the last list has been seen, whatever happened since.
  [[nodiscard]] bool synced() const { return synced_; }
  // The resource version of every object that is there, by name.
  [[nodiscard]] const std::map<std::string, std::string>& versions() const { return versions_; }
  [[nodiscard]] const std::string& resource_version() const { return resource_version_; }

  // For metrics and tests.
  struct Counters {
    uint64_t lists = 0;
    uint64_t watches = 0;
    uint64_t events = 0;
    uint64_t expired = 0;  // 410
    uint64_t failures = 0;
  };
  [[nodiscard]] const Counters& counters() const { return counters_; }

 private:
  void put(nlohmann::json object);
  void drop(const std::string& name);
  void failed();
  void list_again();

  const Options options_;
  const Listener listener_;
  std::map<std::string, std::string> versions_;
  std::set<std::string> listed_;  // names in the list under way
  std::string continue_token_;
  std::string list_version_;
  std::string resource_version_;  // to watch from; empty: list first
  bool synced_ = false;
  bool expired_ = false;  // the watch under way is of no use
  bool must_wait_ = false;
  bool parted_ = false;  // from those that began together
  unsigned failures_ = 0;
  Counters counters_;
};

}  // namespace ublk_operator::kube

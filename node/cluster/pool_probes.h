// PoolProbes: looks at the pools of a node, each in a process of its own: a dead network file
// system keeps whoever looks at it, perhaps for ever, and that must not be who writes the node's
// status.
// Shape    look() asks all pools at once and waits at most `patience`. A pool that does not answer
//          is said to be unknown, and not asked again before its process has ended.
// Bounds   one process a pool.
// Threads  one at a time.
#pragma once
#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "node/agent/helper_process.h"
#include "node/agent/pool.h"
#include "node/cluster/node_facts.h"

namespace ublk_operator {

class PoolProbes {
 public:
  // `program`: this program; `helper pool FOLDER [require-mount]` of it is run (run_helper()).
  PoolProbes(const Pools& pools, std::string program,
             std::chrono::milliseconds patience = std::chrono::milliseconds(2000));

  [[nodiscard]] std::vector<PoolFacts> look();

 private:
  struct Probe {
    std::string name;
    Pool pool;
    std::optional<HelperProcess> process;
    std::string hangs_since;  // RFC 3339; empty: it does not
  };
  void start(Probe& probe, PoolFacts& facts) const;
  static void read(Probe& probe, PoolFacts& facts);

  const std::string program_;
  const std::chrono::milliseconds patience_;
  std::vector<Probe> probes_;
};

}  // namespace ublk_operator

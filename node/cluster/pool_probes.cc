#include "node/cluster/pool_probes.h"

#include <charconv>
#include <utility>

#include "common/api/quantity.h"
#include "common/base/strings.h"

namespace ublk_operator {

PoolProbes::PoolProbes(const Pools& pools, std::string program, std::chrono::milliseconds patience)
    : program_(std::move(program)), patience_(patience) {
  for (const auto& [name, pool] : pools) probes_.push_back({name, pool, std::nullopt, ""});
}

std::vector<PoolFacts> PoolProbes::look() {
  std::vector<PoolFacts> all;
  for (auto& probe : probes_) {
    all.push_back({probe.name, probe.pool.path, 0, 0, ""});
    if (!probe.process) start(probe, all.back());
  }
  const auto until = std::chrono::steady_clock::now() + patience_;
  for (size_t i = 0; i < probes_.size(); ++i) {
    Probe& probe = probes_[i];
    if (!probe.process) continue;
    // One that hung the last time is not waited for again, so that this costs everybody else
    // nothing.
    if (probe.process->wait(probe.hangs_since.empty() ? until
                                                      : std::chrono::steady_clock::time_point())) {
      read(probe, all[i]);
      continue;
    }
    if (probe.hangs_since.empty()) probe.hangs_since = format_now();
    all[i].problem = probe.pool.path + " does not answer since " + probe.hangs_since +
                     ", so what is free there is not known; is it a network file system whose "
                     "server is gone?";
  }
  return all;
}

void PoolProbes::start(Probe& probe, PoolFacts& facts) const {
  std::vector<std::string> words{"pool", probe.pool.path};
  if (probe.pool.require_mount) words.emplace_back("require-mount");
  auto process = HelperProcess::start(program_, words);
  if (process)
    probe.process = std::move(*process);
  else
    facts.problem = process.error().to_string();
}

void PoolProbes::read(Probe& probe, PoolFacts& facts) {
  auto text = probe.process->finish();
  probe.process.reset();
  probe.hangs_since.clear();
  if (!text) {
    facts.problem = text.error().to_string();
    return;
  }
  const auto words = split(*text, ' ');
  const auto number = [&](size_t i, uint64_t& value) {
    return i < words.size() &&
           std::from_chars(words[i].data(), words[i].data() + words[i].size(), value).ec ==
               std::errc();
  };
  if (!number(0, facts.capacity_bytes) || !number(1, facts.free_bytes))
    facts.problem = "EPROTO look " + probe.pool.path + ": the helper said \"" + *text + "\"";
}

}  // namespace ublk_operator

// Nodes of a cluster without machines: simulated_nodes FOLDER NODE... runs a SimulatedNode for each
// name until a signal, with the kubeconfig FOLDER/NODE.kubeconfig and below FOLDER/NODE. Many of
// them share a process; a volume costs it a thread and some ten descriptors, so thousands need
// several.
#include <poll.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <string_view>
#include <vector>

#include "CLI/CLI.hpp"
#include "common/base/stop_signals.h"
#include "tests/cluster/simulated_node.h"

namespace {

using namespace ublk_operator;

struct Settings {
  std::string folder;
  std::vector<std::string> names;
  std::string namespace_name = "ublk-system";
  std::string log_level = "error";
};

int fail(const Error& error) {
  std::fprintf(stderr, "simulated_nodes: %s\n", error.to_string().c_str());
  return 1;
}

void raise_open_files() {
  rlimit files{};
  if (::getrlimit(RLIMIT_NOFILE, &files) != 0) return;
  files.rlim_cur = files.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &files);
}

int run(const Settings& settings) {
  auto stop = stop_signals();
  if (!stop) return fail(stop.error());
  auto log = make_logger("simulated", settings.log_level);
  if (!log) return fail(log.error());
  raise_open_files();
  std::vector<std::unique_ptr<SimulatedNode>> nodes;
  for (const auto& name : settings.names) {
    auto node = SimulatedNode::start(
        {name, settings.folder + "/" + name, settings.folder + "/" + name + ".kubeconfig",
         settings.namespace_name},
        *log);
    if (!node) return fail(node.error());
    nodes.push_back(std::move(*node));
  }
  pollfd fd{stop->get(), POLLIN, 0};
  while (::poll(&fd, 1, -1) < 0 && errno == EINTR) {
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  // An agent asks its own program for what a real kernel might never return from. There is none
  // here, and what the machine has is not touched.
  if (argc > 1 && std::string_view(argv[1]) == "helper") return EOPNOTSUPP;
  Settings settings;
  CLI::App app("Agents on fake kernels, against a real API server.", "simulated_nodes");
  app.add_option("folder", settings.folder, "of kubeconfigs and of what the nodes keep")
      ->required();
  app.add_option("nodes", settings.names, "names of the nodes")->required();
  app.add_option("--namespace", settings.namespace_name, "where the nodes' Leases are")
      ->capture_default_str();
  app.add_option("--log-level", settings.log_level, "debug, info, warn or error")
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return run(settings);
}

// ublk-controller: binds volumes to nodes and keeps their finalizers. `check-uninstall` is another
// program in its place: the chart's question before an uninstall, asked once.
#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>

#include "common/base/log.h"
#include "common/base/stop_signals.h"
#include "common/base/unique_fd.h"
#include "common/http/server.h"
#include "common/kube/config.h"
#include "common/kube/transport.h"
#include "common/metrics/metrics.h"
#include "controller/operator/controller.h"
#include "controller/operator/uninstall.h"

namespace {

using namespace ublk_operator;

struct Settings {
  std::string kubeconfig;
  std::string context;
  std::string namespace_name;
  std::string identity;
  std::string listen = "0.0.0.0:8080";
  std::string startup_taint;
  std::string log_level = "info";
};

int fail(const Error& error) {
  std::fprintf(stderr, "ublk-controller: %s\n", error.to_string().c_str());
  return 1;
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "ublk-controller";
}

http::Pages pages(const controller::Controller& control, const metrics::Registry& registry) {
  return {
      {"/metrics",
       [&registry] { return http::Reply{200, registry.text(), metrics::Registry::content_type}; }},
      {"/healthz",
       [&control] {
         return control.healthy() ? http::Reply{200, "ok\n"}
                                  : http::Reply{500, "the worker is stuck\n"};
       }},
      {"/readyz", [&control] {
         return control.synced() ? http::Reply{200, "ok\n"}
                                 : http::Reply{503, "the API server was not heard yet\n"};
       }}};
}

// Until a signal (0) or until the Lease is lost (1).
int wait_for_end(const UniqueFd& stop, const EventFd& lost) {
  std::array<pollfd, 2> fds{{{stop.get(), POLLIN, 0}, {lost.fd(), POLLIN, 0}}};
  while (::poll(fds.data(), fds.size(), -1) < 0) {
    if (errno != EINTR) return fail(errno_error("poll", ""));
  }
  return fds[1].revents != 0 ? 1 : 0;
}

// Exit status 2, which the chart's Job takes for an answer: volumes have devices. 1: nobody knows.
int check_uninstall(const Settings& settings) {
  const auto config = kube::default_config(settings.kubeconfig, settings.context);
  if (!config) return fail(config.error());
  auto transport = kube::make_transport(*config);
  if (!transport) return fail(transport.error());
  const kube::KubeClient client(std::move(transport).value());
  const auto found = controller::volumes_with_device(client, kube::Cancel());
  if (!found) return fail(found.error());
  if (found->empty()) return 0;
  std::fputs(controller::refusal(*found).c_str(), stderr);
  return 2;
}

int run(const Settings& settings) {
  const auto stop = stop_signals();
  if (!stop) return fail(stop.error());
  const auto log = make_logger("ublk-controller", settings.log_level);
  if (!log) return fail(log.error());
  const auto config = kube::default_config(settings.kubeconfig, settings.context);
  if (!config) return fail(config.error());
  auto made = kube::make_transport(*config);
  if (!made) return fail(made.error());
  const std::shared_ptr<kube::Transport> transport = std::move(made).value();
  const EventFd lost = EventFd::must_create();
  metrics::Registry registry;
  controller::Controller control(
      transport,
      {.namespace_name =
           settings.namespace_name.empty() ? config->namespace_name : settings.namespace_name,
       .identity = settings.identity.empty() ? host_name() : settings.identity,
       .startup_taint = settings.startup_taint},
      registry, [&lost](const std::string&) { lost.signal(); }, *log);
  auto server = http::HttpServer::listen(settings.listen, pages(control, registry));
  if (!server) return fail(server.error());
  control.start();
  const int code = wait_for_end(*stop, lost);
  (*log)->info("operation=stop lost_lease={}", code != 0);
  control.stop();
  server->reset();
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app("Binds ublk volumes to nodes: the operator's part that a cluster has once.",
               "ublk-controller");
  app.set_version_flag("--version", std::string(UBLK_VERSION));
  app.add_option(
      "--kubeconfig", settings.kubeconfig,
      "how to reach the API server; without it $KUBECONFIG, else the pod's service account");
  app.add_option("--context", settings.context,
                 "of the kubeconfig, instead of its current-context");
  app.add_option("--namespace", settings.namespace_name,
                 "where the Leases of leader and nodes are; without it the configuration's");
  app.add_option("--identity", settings.identity,
                 "of this process among those who may lead; without it the host's name");
  app.add_option("--listen", settings.listen, "ADDRESS:PORT of /metrics, /healthz and /readyz")
      ->capture_default_str();
  app.add_option("--startup-taint", settings.startup_taint,
                 "key of a taint to take off each node once it serves volumes; without it none");
  app.add_option("--log-level", settings.log_level, "debug, info, warn or error")
      ->capture_default_str();
  const auto* check = app.add_subcommand(
      "check-uninstall", "Exit status 2, and a list, while volumes have devices; changes nothing.");
  app.fallthrough()->require_subcommand(0, 1);
  CLI11_PARSE(app, argc, argv);
  return check->parsed() ? check_uninstall(settings) : run(settings);
}

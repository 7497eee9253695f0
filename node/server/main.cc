// ublk-server: serves one volume. Started by the spawner, spoken to by the agent (protocol.h).
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <utility>

#include "CLI/CLI.hpp"
#include "common/base/limits.h"
#include "node/server/process.h"
#include "node/server/server.h"

namespace {

using namespace ublk_operator;

int serve(int channel_fd, uint64_t arena_bytes, std::chrono::steady_clock::time_point started) {
  const auto fail = [](const Error& error) {
    (void)fprintf(stderr, "ublk-server: %s\n", error.to_string().c_str());
    return 1;
  };
  ReadyMessage ready = set_up_process();
  auto arena = map_buffers(arena_bytes);
  if (!arena) return fail(arena.error());
  ready.arena_bytes = arena->bytes().size();
  auto server = Server::create(MessageSocket(UniqueFd(channel_fd)), std::move(arena).value());
  if (!server) return fail(server.error());
  ready.startup_us = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(
                                               std::chrono::steady_clock::now() - started)
                                               .count());
  const int status = (*server)->run(ready);
  // Nothing is taken down: queue threads are parked, and the kernel frees rings and files the same
  // way as after a kill.
  _exit(status);
}

}  // namespace

int main(int argc, char** argv) {
  const auto started = std::chrono::steady_clock::now();
  CLI::App app{"Serves one ublk volume. Started by ublk-node, not by hand."};
  int channel = -1;
  uint64_t arena_bytes = 0;
  app.add_option("--channel", channel, "descriptor of the socket to the agent")
      ->required()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--arena", arena_bytes, "bytes of buffers to map before the volume is known")
      ->check(CLI::Range(uint64_t{0}, limits::volume_buffer_bytes_max));
  CLI11_PARSE(app, argc, argv);
  return serve(channel, arena_bytes, started);
}

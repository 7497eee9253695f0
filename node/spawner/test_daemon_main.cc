// A spawner in a process of its own: what `ublk-node spawner` is.
// Usage: spawner_test_daemon SOCKET UID_LOCK_DIRECTORY [no-cgroups]
#include <cstdlib>

#include "node/spawner/daemon.h"

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) return EXIT_FAILURE;
  auto log = ublk_operator::make_logger("spawner", "info");
  if (!log) return EXIT_FAILURE;
  ublk_operator::SpawnerOptions options;
  options.socket_path = argv[1];
  options.uid_lock_directory = argv[2];
  options.use_cgroups = argc == 3;
  return ublk_operator::run_spawner(options, *log);
}

// Manifests for the tests of this room, and what to do with them.
#pragma once
#include <string>
#include <vector>

#include "common/api/decode.h"

namespace ublk_operator::testing_manifests {

inline std::string header(const std::string& name) {
  return "apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\nmetadata:\n  name: " + name + "\n";
}

// Lines 1 to 4 are the header, line 5 is "spec:", `fields` begins in line 6 and wants an
// indentation of two.
inline std::string with_spec(const std::string& fields) {
  return header("pgdata") + "spec:\n" + fields;
}

// A manifest that is right but for `fields`, which begin in line 8.
inline std::string with_fields(const std::string& fields) {
  return with_spec("  size: 1Gi\n  backend: {null: {}}\n" + fields);
}

// Every field that a manifest can have.
inline std::string complete() {
  return with_spec(
      "  nodeName: node-1.example\n"
      "  size: 10Gi\n"
      "  recovery:\n"
      "    mode: Queue\n"
      "    deadline: 1m\n"
      "    onDeadline: FailDevice\n"
      "    maxRestarts: 3\n"
      "    backOff:\n"
      "      initial: 200ms\n"
      "      max: 10s\n"
      "  backend:\n"
      "    file:\n"
      "      pool: fast\n"
      "      path: db/pgdata.img\n"
      "      provisioning: Thick\n"
      "      directIO: true\n"
      "  faultInjection:\n"
      "    latency: 5ms\n"
      "  queues: 4\n"
      "  queueDepth: 32\n"
      "  maxIOSize: 1Mi\n"
      "  logicalBlockSize: 4096\n"
      "  readOnly: true\n"
      "  running: false\n"
      "  device:\n"
      "    mode: \"0600\"\n"
      "    owner: postgres\n"
      "    group: 1234\n"
      "  reclaimPolicy: Delete\n");
}

// All problems as they are printed, those of the file first.
inline std::vector<std::string> problems_of(const std::string& text) {
  std::vector<std::string> lines;
  const DecodedManifest manifest = decode_manifest(text, "vol.yaml");
  const auto add = [&](const Problem& problem) { lines.push_back(problem.to_string()); };
  for (const auto& problem : manifest.problems) add(problem);
  for (const auto& document : manifest.documents) {
    for (const auto& problem : document.problems) add(problem);
  }
  return lines;
}

}  // namespace ublk_operator::testing_manifests

// What a tree must say to be a UblkVolume: names, types, bounds and what must fit together.
// Errors   every problem found goes to the list; the volume is only worth something when it stayed
//          empty.
// Threads  pure functions.
#pragma once
#include <string>

#include "common/api/object_reader.h"
#include "common/api/tree.h"
#include "common/api/volume.h"

namespace ublk_operator {

enum class Origin {
  manifest,  // written by a person: uid, generation and status are not theirs to say, and passed
             // over
  api,  // written by to_json or an API server: they are read, unknown status fields passed over
};

[[nodiscard]] Volume read_volume(const Tree& tree, Origin origin, ProblemList& problems);
[[nodiscard]] VolumeEvent read_event(const Tree& tree, ProblemList& problems);

// metadata.name, when it can be read as a whole and can be a volume's name; else empty.
[[nodiscard]] std::string read_name(const Tree& tree);

}  // namespace ublk_operator

// The mark by which this node knows its devices: ublksrv_flags of ADD_DEV is ours alone and kept by
// the kernel for the life of the device, so that an agent without memory still knows which device
// is which volume's, and that all others are not its business.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace ublk_operator {

// 16 bits of magic, then 48 bits of a hash over the node's id and the volume's uid. Two of 1024
// volumes collide with probability 2e-9; the agent refuses the second.
[[nodiscard]] uint64_t volume_identity(std::string_view node_id, std::string_view volume_uid);
[[nodiscard]] bool is_volume_identity(
    uint64_t identity);  // the magic is there: some agent's volume

// A volume's uid where no API server gives one: the same for the same node and name, whatever was
// lost.
[[nodiscard]] std::string local_volume_uid(std::string_view node_id, std::string_view name);

}  // namespace ublk_operator

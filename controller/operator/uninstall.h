// What an uninstall of the operator would take the servers of: volumes that have a device.
// Shape    one list of all volumes. "Has a device" is what the node last said. It is asked for no
//          more than that, because nobody but the kernel knows who has a device open, and it only
//          says so when it is told to let go: while one is there, somebody may have it open. A node
//          that is silent, or gone, said it once; its volumes count too.
// Errors   those of KubeClient, but EAGAIN where the list could not be had in one piece three
//          times. Where there is no such kind of objects there are no volumes.
// Bounds   pages of 500; of each volume with a device a few words are kept.
// Threads  pure functions, but for the client's calls.
#pragma once
#include <string>
#include <vector>

#include "common/kube/client.h"

namespace ublk_operator::controller {

struct VolumeWithDevice {
  std::string name;
  std::string node;
  std::string device;  // "/dev/ublkb3"; empty while it is no disk
  std::string state;   // the kernel's word
  std::string users;   // who keeps it from being removed, as far as the node had to ask; else empty
  bool deleting = false;
  friend bool operator==(const VolumeWithDevice&, const VolumeWithDevice&) = default;
};

[[nodiscard]] Result<std::vector<VolumeWithDevice>> volumes_with_device(
    const kube::KubeClient& client, const kube::Cancel& cancel);

// The list, then why the uninstall is refused and what to do: for the log of a Job, of which the
// pod's status keeps only the end, 2048 bytes.
[[nodiscard]] std::string refusal(const std::vector<VolumeWithDevice>& volumes);

}  // namespace ublk_operator::controller

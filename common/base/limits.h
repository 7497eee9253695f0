// Every bound of the programs in one place, each with a line on why that number.
#pragma once
#include <chrono>
#include <cstddef>
#include <cstdint>

namespace ublk_operator::limits {

using namespace std::chrono_literals;

// A node's volumes. Each costs the agent one thread and some 20 descriptors; 4 times what a large
// node carries today.
inline constexpr size_t volumes_max = 1024;

// Manifests. A real one is under 1 KiB; a folder of 1024 volumes in one file still fits.
inline constexpr size_t manifest_bytes_max = 4 << 20;
inline constexpr size_t yaml_depth_max = 32;
// Nodes of a document after aliases are expanded: an alias bomb ends here.
inline constexpr size_t yaml_nodes_max = 100'000;

// One message between our processes (SOCK_SEQPACKET, below the default socket buffer of 208 KiB).
inline constexpr size_t message_bytes_max = 64 << 10;
inline constexpr size_t message_fds_max = 16;

// Local API (ublkctl). A list of 1024 volumes is about 3 MiB, a manifest of manifest_bytes_max
// escaped as JSON at most 8 MiB.
inline constexpr size_t local_api_bytes_max = 16 << 20;
inline constexpr size_t local_api_depth_max = 64;
// A thread each; a machine has a few people and scripts, not hundreds.
inline constexpr size_t local_api_clients_max = 32;
// Changes that wait for one watcher: all volumes_max at its start, and each changing thrice.
inline constexpr size_t local_api_watch_changes_max = 4096;
// A client that asks nothing, or takes no byte of what waits for it, gives its place to others.
inline constexpr auto local_api_idle_max = 60s;
inline constexpr auto local_api_stall_max = 30s;

// Kernel: UBLK_MAX_NR_QUEUES, UBLK_MAX_QUEUE_DEPTH and the 25 bit buffer offset (ublk_drv.c).
inline constexpr uint32_t queues_max = 4096;
inline constexpr uint32_t queue_depth_max = 4096;
inline constexpr uint32_t io_bytes_max = 32 << 20;
// What all buffers of one volume may take: queues x depth x maxIOSize is locked memory.
inline constexpr uint64_t volume_buffer_bytes_max = uint64_t{1} << 30;

// Names: a volume's name is a DNS-1123 subdomain in Kubernetes, a file name on the node, a link in
// /dev/ublk/by-name.
inline constexpr size_t volume_name_bytes_max = 253;

// Control commands that answer at once on a healthy device; the slowest seen is ADD with 2 queues,
// 30 ms under TCG.
inline constexpr auto command_deadline = 10s;
// START_DEV and END_USER_RECOVERY wait for every FETCH of the server.
inline constexpr auto serve_deadline = 30s;
// From the server's death until the kernel let go of ublkcN: a backend that holds I/O delays it, so
// it is only when this passes that the condition says so; waiting goes on.
inline constexpr auto release_warn_after = 5s;
// A volume that lost its server has the kernel's grace periods expedited, and threads that run
// first, for so long at most: what takes longer is I/O that has not ended, beside which either is
// short.
inline constexpr auto hurry_max = 1s;
// Linux 6.12 notices the death of a server that held every tag of a queue only when a request times
// out (queue/io_timeout, 30 s by default): this is what the agent sets it to there, in
// milliseconds. The driver re-arms the timer of a living server for ever, so a slow backend is not
// harmed.
inline constexpr std::chrono::milliseconds legacy_request_timeout = 2000ms;
// Servers: from spawn until the channel says "ready", and from grant to "serving".
inline constexpr auto server_ready_deadline = 20s;

// Servers of one spawner: one a volume, warm standbys, and the old and the new one of hand-overs
// that run at the same time.
inline constexpr size_t servers_max = volumes_max + 64;
// Connections to a spawner: an agent has two, and during an upgrade there are two agents.
inline constexpr size_t spawner_connections_max = 8;
// Messages that wait for a slow reader of the spawner: a whole list and an exit of every server
// fit.
inline constexpr size_t spawner_outbox_messages_max = 2 * servers_max;
// Path of a server program: 8 servers a message, and JSON may write 6 bytes for one.
inline constexpr size_t program_path_bytes_max = 1000;
// After SIGKILL until the kernel hands the zombie over. Only a server in an uninterruptible wait
// takes longer, and no waiting helps against that.
inline constexpr auto reap_deadline = 10s;

// Events kept for each volume, for `ublkctl events`.
inline constexpr size_t events_per_volume_max = 64;

}  // namespace ublk_operator::limits

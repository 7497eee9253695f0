// The delay filter: wraps any backend and holds every read and write for `latency_ns` before the
// inner backend sees it (the config key "latency_ns" of any kind; faultInjection.latency of a
// volume). The request waits as a timeout of the same ring, so that what a killed server still held
// ends with its ring and never reaches the inner backend. Flush, discard and write-zeroes pass at
// once.
#pragma once
#include <memory>

#include "node/backends/backend.h"

namespace ublk_operator {

[[nodiscard]] std::unique_ptr<Backend> make_delay_backend(std::unique_ptr<Backend> inner,
                                                          uint64_t latency_ns);

}  // namespace ublk_operator

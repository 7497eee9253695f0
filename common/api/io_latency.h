// IoLatency: how long requests took, counted by upper bounds that are powers of four: from 16 us,
// below which a request hardly left the CPU, to 69 s, which every kernel takes for a failure.
// Source   bounds are powers of two of a nanosecond, so that finding one costs an instruction.
#pragma once
#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace ublk_operator {

struct IoLatency {
  static constexpr size_t bounds = 12;
  static constexpr size_t buckets = bounds + 1;  // the last one: above every bound
  static constexpr uint64_t bound_ns(size_t i) { return uint64_t{1} << (14 + 2 * i); }
  // The first whose bound is not below.
  static constexpr size_t bucket_of(uint64_t ns) {
    const auto width = static_cast<size_t>(std::bit_width(ns == 0 ? 0 : ns - 1));
    return width <= 14 ? 0 : std::min((width - 13) / 2, bounds);
  }

  std::array<uint64_t, buckets> counts{};  // of each bucket alone
  uint64_t sum_ns = 0;
  friend bool operator==(const IoLatency&, const IoLatency&) = default;
};

}  // namespace ublk_operator

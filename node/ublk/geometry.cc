#include "node/ublk/geometry.h"

#include <unistd.h>

#include <bit>

#include "common/base/limits.h"

namespace ublk_operator {
namespace {

constexpr uint32_t sector_bytes = 512;

uint8_t shift_of(uint32_t power_of_two) {
  return static_cast<uint8_t>(std::countr_zero(power_of_two));
}

uint32_t page_bytes() { return static_cast<uint32_t>(::sysconf(_SC_PAGESIZE)); }

// What is wrong with it, or empty.
std::string fault_of(const Geometry& g) {
  const auto number = [](uint64_t value) { return std::to_string(value); };
  const uint32_t page = page_bytes();
  if (!std::has_single_bit(g.logical_block_bytes) || g.logical_block_bytes < sector_bytes ||
      g.logical_block_bytes > page)
    return "logical block size " + number(g.logical_block_bytes) +
           " is not a power of two between 512 and " + number(page);
  if (!std::has_single_bit(g.physical_block_bytes) ||
      g.physical_block_bytes < g.logical_block_bytes)
    return "physical block size " + number(g.physical_block_bytes) +
           " is not a power of two of at least the logical block size";
  if (g.size_bytes == 0 || g.size_bytes % g.logical_block_bytes != 0)
    return "size " + number(g.size_bytes) + " is not a positive multiple of the logical block size";
  if (g.max_io_bytes < page || g.max_io_bytes % page != 0 || g.max_io_bytes > limits::io_bytes_max)
    return "maximal I/O size " + number(g.max_io_bytes) + " is not a multiple of " + number(page) +
           " up to " + number(limits::io_bytes_max);
  if (g.discard_granularity_bytes == 0) {
    if (g.discard_max_bytes != 0 || g.write_zeroes_max_bytes != 0)
      return "discard and write-zeroes need a discard granularity";
  } else if (g.discard_granularity_bytes % g.logical_block_bytes != 0) {
    return "discard granularity " + number(g.discard_granularity_bytes) +
           " is not a multiple of the logical block size";
  }
  return {};
}

}  // namespace

Result<abi::Params> to_params(const Geometry& geometry, const std::string& object) {
  if (std::string fault = fault_of(geometry); !fault.empty())
    return Error{EINVAL, "set_params", object, std::move(fault)};
  abi::Params params{};
  params.len = sizeof params;
  params.types = abi::param::basic;
  params.basic.attrs = (geometry.read_only ? abi::attr::read_only : 0) |
                       (geometry.volatile_cache ? abi::attr::volatile_cache : 0) |
                       (geometry.fua ? abi::attr::fua : 0);
  params.basic.logical_bs_shift = shift_of(geometry.logical_block_bytes);
  params.basic.physical_bs_shift = shift_of(geometry.physical_block_bytes);
  // The hints say no more than the physical block size: mkfs takes larger ones for a RAID stripe.
  params.basic.io_min_shift = params.basic.physical_bs_shift;
  params.basic.io_opt_shift = params.basic.physical_bs_shift;
  params.basic.max_sectors = geometry.max_io_bytes / sector_bytes;
  params.basic.dev_sectors = geometry.size_bytes / sector_bytes;
  if (geometry.discard_granularity_bytes != 0) {
    params.types |= abi::param::discard;
    params.discard.discard_granularity = geometry.discard_granularity_bytes;
    params.discard.max_discard_sectors = geometry.discard_max_bytes / sector_bytes;
    params.discard.max_write_zeroes_sectors = geometry.write_zeroes_max_bytes / sector_bytes;
    params.discard.max_discard_segments = 1;
  }
  return params;
}

Geometry from_params(const abi::Params& params) {
  Geometry geometry;
  geometry.read_only = (params.basic.attrs & abi::attr::read_only) != 0;
  geometry.volatile_cache = (params.basic.attrs & abi::attr::volatile_cache) != 0;
  geometry.fua = (params.basic.attrs & abi::attr::fua) != 0;
  geometry.logical_block_bytes = 1u << params.basic.logical_bs_shift;
  geometry.physical_block_bytes = 1u << params.basic.physical_bs_shift;
  geometry.size_bytes = params.basic.dev_sectors * sector_bytes;
  if ((params.types & abi::param::discard) != 0) {
    geometry.discard_granularity_bytes = params.discard.discard_granularity;
    geometry.discard_max_bytes = params.discard.max_discard_sectors * sector_bytes;
    geometry.write_zeroes_max_bytes = params.discard.max_write_zeroes_sectors * sector_bytes;
  }
  return geometry;
}

}  // namespace ublk_operator

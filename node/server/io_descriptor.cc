#include "node/server/io_descriptor.h"

namespace ublk_operator {
namespace {

constexpr uint64_t kSectorBytes = 512;

std::optional<IoOp> known_op(abi::IoOp op) {
  switch (op) {
    case abi::IoOp::read:
      return IoOp::read;
    case abi::IoOp::write:
      return IoOp::write;
    case abi::IoOp::flush:
      return IoOp::flush;
    case abi::IoOp::discard:
      return IoOp::discard;
    case abi::IoOp::write_zeroes:
      return IoOp::write_zeroes;
    default:
      return std::nullopt;
  }
}

}  // namespace

DecodedIo decode(const abi::IoDesc& descriptor, const Geometry& geometry, uint16_t tag,
                 std::span<std::byte> buffer) {
  DecodedIo decoded;
  decoded.op = known_op(abi::op_of(descriptor));
  const auto refuse = [&decoded](int32_t result) {
    decoded.refusal = result;
    return decoded;
  };
  if (!decoded.op) return refuse(-EOPNOTSUPP);

  IoRequest request;
  request.op = *decoded.op;
  request.tag = tag;
  request.fua = abi::has_flag(descriptor, abi::io_flag::fua);
  request.may_unmap = !abi::has_flag(descriptor, abi::io_flag::no_unmap);
  if (request.op != IoOp::flush) {
    const uint64_t length_bytes = descriptor.nr_sectors * kSectorBytes;
    // In sectors first: bytes may not fit into 64 bits.
    const uint64_t size_sectors = geometry.size_bytes / kSectorBytes;
    if (descriptor.start_sector > size_sectors ||
        descriptor.nr_sectors > size_sectors - descriptor.start_sector)
      return refuse(-EIO);
    request.offset_bytes = descriptor.start_sector * kSectorBytes;
    if (length_bytes == 0 || length_bytes > INT32_MAX ||
        length_bytes % geometry.logical_block_bytes != 0 ||
        request.offset_bytes % geometry.logical_block_bytes != 0)
      return refuse(-EINVAL);
    request.length_bytes = static_cast<uint32_t>(length_bytes);
  }
  if (request.op == IoOp::read || request.op == IoOp::write) {
    if (request.length_bytes > buffer.size()) return refuse(-EINVAL);
    request.buffer = buffer.first(request.length_bytes);
  }
  decoded.request = request;
  return decoded;
}

}  // namespace ublk_operator

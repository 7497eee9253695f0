#include "node/server/io_descriptor.h"

#include <vector>

#include "gtest/gtest.h"

namespace ublk_operator {
namespace {

class DecodeTest : public ::testing::Test {
 protected:
  DecodeTest() : buffer_(8192) {
    geometry_.size_bytes = 1 << 20;
    geometry_.logical_block_bytes = 4096;
  }
  DecodedIo run(abi::IoOp op, uint64_t start_sector, uint32_t sectors, uint32_t io_flags = 0) {
    abi::IoDesc descriptor{};
    descriptor.op_flags = static_cast<uint32_t>(op) | io_flags;
    descriptor.start_sector = start_sector;
    descriptor.nr_sectors = sectors;
    return decode(descriptor, geometry_, 5, buffer_);
  }
  Geometry geometry_;
  std::vector<std::byte> buffer_;
};

TEST_F(DecodeTest, ReadNamesItsBytesAndItsPartOfTheBuffer) {
  const auto io = run(abi::IoOp::read, 16, 8);
  EXPECT_EQ(io.refusal, 0);
  EXPECT_EQ(io.request.op, IoOp::read);
  EXPECT_EQ(io.request.tag, 5);
  EXPECT_EQ(io.request.offset_bytes, 8192u);
  EXPECT_EQ(io.request.length_bytes, 4096u);
  EXPECT_EQ(io.request.buffer.data(), buffer_.data());
  EXPECT_EQ(io.request.buffer.size(), 4096u);
  EXPECT_FALSE(io.request.fua);
}

TEST_F(DecodeTest, FlagsReachTheRequest) {
  EXPECT_TRUE(run(abi::IoOp::write, 0, 8, abi::io_flag::fua).request.fua);
  EXPECT_TRUE(run(abi::IoOp::write_zeroes, 0, 8).request.may_unmap);
  EXPECT_FALSE(run(abi::IoOp::write_zeroes, 0, 8, abi::io_flag::no_unmap).request.may_unmap);
  // Hints that mean nothing to a server do not get in the way.
  EXPECT_EQ(run(abi::IoOp::read, 0, 8, abi::io_flag::meta | abi::io_flag::failfast_dev).refusal, 0);
}

TEST_F(DecodeTest, DiscardMayBeLargerThanTheBuffer) {
  const auto io = run(abi::IoOp::discard, 0, 2048);
  EXPECT_EQ(io.refusal, 0);
  EXPECT_EQ(io.request.length_bytes, 1u << 20);
  EXPECT_TRUE(io.request.buffer.empty());
}

TEST_F(DecodeTest, FlushIgnoresItsRange) {
  const auto io = run(abi::IoOp::flush, UINT64_MAX, UINT32_MAX);
  EXPECT_EQ(io.refusal, 0);
  EXPECT_EQ(io.request.length_bytes, 0u);
}

TEST_F(DecodeTest, LastBlockIsInsideAndTheNextOneIsNot) {
  EXPECT_EQ(run(abi::IoOp::write, 2040, 8).refusal, 0);
  EXPECT_EQ(run(abi::IoOp::write, 2048, 8).refusal, -EIO);
  EXPECT_EQ(run(abi::IoOp::write, 2040, 16).refusal, -EIO);
  EXPECT_EQ(run(abi::IoOp::write, UINT64_MAX, 8).refusal, -EIO);
  EXPECT_EQ(run(abi::IoOp::write, UINT64_MAX / 512, UINT32_MAX).refusal, -EIO);
}

TEST_F(DecodeTest, UnalignedEmptyOrTooLargeForTheBufferIsRefused) {
  EXPECT_EQ(run(abi::IoOp::read, 1, 8).refusal, -EINVAL);
  EXPECT_EQ(run(abi::IoOp::read, 0, 1).refusal, -EINVAL);
  EXPECT_EQ(run(abi::IoOp::read, 0, 0).refusal, -EINVAL);
  EXPECT_EQ(run(abi::IoOp::read, 0, 24).refusal, -EINVAL);
}

TEST_F(DecodeTest, UnknownOperationIsRefused) {
  const auto io = run(abi::IoOp::zone_append, 0, 8);
  EXPECT_EQ(io.refusal, -EOPNOTSUPP);
  EXPECT_FALSE(io.op.has_value());
}

}  // namespace
}  // namespace ublk_operator

#include "node/backends/file/file_backend.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>

#include "node/backends/test_harness.h"

namespace ublk_operator {
namespace {

constexpr uint64_t kSizeBytes = 1 << 20;

UniqueFd temporary_file(uint64_t bytes, int flags = O_RDWR) {
  UniqueFd file(
      open(std::filesystem::temp_directory_path().c_str(), flags | O_TMPFILE | O_CLOEXEC, 0600));
  if (file.valid()) UBLK_CHECK(ftruncate(file.get(), static_cast<off_t>(bytes)) == 0);
  return file;
}

std::vector<UniqueFd> one(UniqueFd fd) {
  std::vector<UniqueFd> fds;
  fds.push_back(std::move(fd));
  return fds;
}

nlohmann::json config(uint64_t size = kSizeBytes) {
  return {{"kind", "file"}, {"path", "/pool/a.img"}, {"size_bytes", size}};
}

class FileBackendTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::ring_is_allowed()) GTEST_SKIP() << "io_uring is not allowed on this machine";
  }
  // A queue on a file of which the test keeps a descriptor.
  void open_queue(const nlohmann::json& options = config()) {
    file_ = temporary_file(kSizeBytes);
    ASSERT_TRUE(file_.valid());
    auto copy = file_.duplicate();
    ASSERT_TRUE(copy.ok());
    auto backend = make_file_backend(options, one(std::move(copy).value()));
    ASSERT_TRUE(backend.ok()) << backend.error().to_string();
    queue_ = std::make_unique<testing::BackendHarness>(std::move(backend).value());
  }
  UniqueFd file_;
  std::unique_ptr<testing::BackendHarness> queue_;
};

TEST_F(FileBackendTest, ReadBeyondTheEndOfAFileThatBecameShorterIsAnErrorAndNotZeroes) {
  open_queue();
  ASSERT_EQ(ftruncate(file_.get(), 8192 + 1000), 0);
  EXPECT_EQ(queue_->read(0, 8192).first, 8192);
  EXPECT_EQ(queue_->read(16384, 4096).first, -EIO);
  // Partly there: the part that exists does not make the rest valid.
  EXPECT_EQ(queue_->read(8192, 4096).first, -EIO);
}

TEST_F(FileBackendTest, DirectReadOfAFileThatEndsInsideABlockIsAnError) {
  UniqueFd file = temporary_file(kSizeBytes, O_RDWR | O_DIRECT);
  if (!file.valid()) GTEST_SKIP() << "the temporary folder's file system cannot do direct I/O";
  auto copy = file.duplicate();
  auto options = config();
  options["direct"] = true;
  options["logical_block_bytes"] = 4096;
  auto backend = make_file_backend(options, one(std::move(copy).value()));
  ASSERT_TRUE(backend.ok()) << backend.error().to_string();
  testing::BackendHarness queue(std::move(backend).value());
  ASSERT_EQ(ftruncate(file.get(), 8192 + 1000), 0);
  EXPECT_EQ(queue.read(4096, 16384).first, -EIO);
  EXPECT_EQ(queue.read(0, 8192).first, 8192);
}

TEST_F(FileBackendTest, ShortWriteGoesOnUntilTheFileSystemSaysWhy) {
  // RLIMIT_FSIZE makes the kernel write up to the limit, then fail: a short write, then EFBIG.
  open_queue();
  ASSERT_EQ(signal(SIGXFSZ, SIG_IGN), SIG_DFL);
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small{.rlim_cur = 16384 + 2048, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto data = testing::pattern(8192, 1);
  const int32_t across = queue_->write(16384, data);
  const int32_t beyond = queue_->write(65536, data);
  const int32_t below = queue_->write(0, data);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  (void)signal(SIGXFSZ, SIG_DFL);
  EXPECT_EQ(across, -EFBIG);
  EXPECT_EQ(beyond, -EFBIG);
  EXPECT_EQ(below, 8192);
}

TEST_F(FileBackendTest, DiscardGivesSpaceBackAndKeepsTheSize) {
  open_queue();
  ASSERT_EQ(queue_->write(0, testing::pattern(65536, 1)), 65536);
  ASSERT_EQ(queue_->simple(IoOp::flush), 0);
  struct stat before{};
  ASSERT_EQ(fstat(file_.get(), &before), 0);
  ASSERT_EQ(queue_->simple(IoOp::discard, 0, 65536), 65536);
  struct stat after{};
  ASSERT_EQ(fstat(file_.get(), &after), 0);
  EXPECT_LT(after.st_blocks, before.st_blocks);
  EXPECT_EQ(after.st_size, before.st_size);
}

TEST_F(FileBackendTest, WriteZeroesKeepsSpaceWhenItMayNotBeUnmapped) {
  open_queue();
  ASSERT_EQ(queue_->write(0, testing::pattern(65536, 1)), 65536);
  ASSERT_EQ(queue_->simple(IoOp::flush), 0);
  struct stat before{};
  ASSERT_EQ(fstat(file_.get(), &before), 0);
  const int32_t result = queue_->simple(IoOp::write_zeroes, 0, 65536, false);
  if (result == -EOPNOTSUPP) GTEST_SKIP() << "this file system has no FALLOC_FL_ZERO_RANGE";
  ASSERT_EQ(result, 65536);
  struct stat after{};
  ASSERT_EQ(fstat(file_.get(), &after), 0);
  EXPECT_GE(after.st_blocks, before.st_blocks);
}

TEST_F(FileBackendTest, ReadOnlyVolumeTakesNoChange) {
  auto options = config();
  options["read_only"] = true;
  open_queue(options);
  EXPECT_EQ(queue_->write(0, testing::pattern(512, 1)), -EROFS);
  EXPECT_EQ(queue_->simple(IoOp::discard, 0, 4096), -EROFS);
  EXPECT_EQ(queue_->simple(IoOp::write_zeroes, 0, 4096), -EROFS);
  EXPECT_EQ(queue_->simple(IoOp::flush), 0);
  EXPECT_EQ(queue_->read(0, 4096).first, 4096);
}

TEST(FileBackendOpenTest, FileSmallerThanTheVolumeIsRefused) {
  const auto made = make_file_backend(config(kSizeBytes + 1), one(temporary_file(kSizeBytes)));
  ASSERT_EQ(made.err(), EINVAL);
  EXPECT_EQ(made.error().object, "/pool/a.img");
  EXPECT_NE(made.error().detail.find("fewer than the volume's 1048577"), std::string::npos);
}

TEST(FileBackendOpenTest, FolderIsRefused) {
  const auto made = make_file_backend(config(), one(UniqueFd(open("/", O_RDONLY | O_CLOEXEC))));
  EXPECT_EQ(made.err(), EINVAL);
}

TEST(FileBackendOpenTest, ReadOnlyDescriptorIsRefusedForAWritableVolume) {
  const UniqueFd writable = temporary_file(kSizeBytes);
  const std::string path = "/proc/self/fd/" + std::to_string(writable.get());
  EXPECT_EQ(make_file_backend(config(), one(UniqueFd(open(path.c_str(), O_RDONLY)))).err(), EINVAL);
  auto options = config();
  options["read_only"] = true;
  EXPECT_TRUE(make_file_backend(options, one(UniqueFd(open(path.c_str(), O_RDONLY)))).ok());
}

TEST(FileBackendOpenTest, DescriptorMustMatchTheWishForDirectIo) {
  auto options = config();
  options["direct"] = true;
  EXPECT_EQ(make_file_backend(options, one(temporary_file(kSizeBytes))).err(), EINVAL);
  UniqueFd direct = temporary_file(kSizeBytes, O_RDWR | O_DIRECT);
  if (direct.valid()) {
    EXPECT_EQ(make_file_backend(config(), one(std::move(direct))).err(), EINVAL);
  }
}

TEST(FileBackendOpenTest, DirectIoAlignmentLargerThanTheLogicalBlockNamesTheFieldToSet) {
  UniqueFd file = temporary_file(kSizeBytes, O_RDWR | O_DIRECT);
  if (!file.valid()) GTEST_SKIP() << "the temporary folder's file system cannot do direct I/O";
  struct statx info{};
  if (statx(file.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) != 0 ||
      info.stx_dio_offset_align <= 512)
    GTEST_SKIP() << "direct I/O works in 512 byte blocks here";
  auto options = config();
  options["direct"] = true;
  const auto made = make_file_backend(options, one(std::move(file)));
  ASSERT_EQ(made.err(), EINVAL);
  EXPECT_NE(made.error().detail.find("set logicalBlockSize"), std::string::npos);
}

TEST(FileBackendOpenTest, MissingDescriptorOrMisshapenConfigIsRefused) {
  EXPECT_EQ(make_file_backend(config(), {}).err(), EPROTO);
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, nlohmann::json>>{
           {"path", 3},
           {"size_bytes", "big"},
           {"size_bytes", 0},
           {"size_bytes", -1},
           {"direct", "yes"},
           {"read_only", 1},
           {"logical_block_bytes", 513},
           {"logical_block_bytes", 8192}}) {
    auto options = config();
    options[key] = value;
    EXPECT_EQ(make_file_backend(options, one(temporary_file(kSizeBytes))).err(), EINVAL)
        << key << " " << value;
  }
}

}  // namespace
}  // namespace ublk_operator

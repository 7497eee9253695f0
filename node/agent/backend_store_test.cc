#include "node/agent/backend_store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

#include "common/base/files.h"

namespace ublk_operator {
namespace {

constexpr uint64_t mib = 1 << 20;

class BackendStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "backend_store_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    std::filesystem::create_directory(pool());
    store_ = std::make_unique<BackendStore>(Pools{{"default", Pool(pool())},
                                                  {"fast", Pool(dir_ + "/unmounted")},
                                                  {"disk", Pool(dir_ + "/disk", true)}},
                                            "/proc/self/mountinfo");
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }

  [[nodiscard]] std::string pool() const { return dir_ + "/pool"; }
  [[nodiscard]] std::string in_pool(const std::string& path) const { return pool() + "/" + path; }
  void write(const std::string& path, const std::string& text) const {
    ASSERT_TRUE(write_file_atomically(in_pool(path), text).ok());
  }
  [[nodiscard]] static uint64_t size_of(const std::string& path) {
    return std::filesystem::file_size(path);
  }
  [[nodiscard]] static uint64_t allocated_bytes(const std::string& path) {
    struct stat info{};
    EXPECT_EQ(::stat(path.c_str(), &info), 0);
    return static_cast<uint64_t>(info.st_blocks) * 512;
  }

  std::string dir_;
  std::unique_ptr<BackendStore> store_;
};

VolumeSpec spec_of(const std::string& path, uint64_t size = mib) {
  VolumeSpec spec;
  spec.size_bytes = size;
  FileBackendSpec file;
  file.path = path;
  spec.backend = file;
  return spec;
}
FileBackendSpec& file_of(VolumeSpec& spec) { return std::get<FileBackendSpec>(spec.backend); }

// Runs in a process of its own with a mount namespace of its own; its exit status is the result.
int in_private_mounts(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::unshare(CLONE_NEWNS) < 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
      ::_exit(77);
    ::_exit(body());
  }
  int status = 0;
  return ::waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_F(BackendStoreTest, TheNullBackendKeepsNothing) {
  VolumeSpec spec;
  spec.size_bytes = mib;
  const auto backend = store_->open("a", spec, std::nullopt);
  ASSERT_TRUE(backend.ok());
  EXPECT_EQ(backend->config.dump(), R"({"kind":"null"})");
  EXPECT_TRUE(backend->fds.empty());
  EXPECT_FALSE(backend->identity);
  EXPECT_FALSE(backend->durable);
  EXPECT_EQ(backend->size_bytes, mib);
}

TEST_F(BackendStoreTest, ANewFileIsMadeWithItsFolders) {
  const auto backend = store_->open("a", spec_of("team/db/a.img"), std::nullopt);
  ASSERT_TRUE(backend.ok()) << backend.error().to_string();
  EXPECT_EQ(size_of(in_pool("team/db/a.img")), mib);
  EXPECT_LT(allocated_bytes(in_pool("team/db/a.img")), mib) << "Thin is sparse";
  EXPECT_EQ(backend->watch_directory, in_pool("team/db"));
  EXPECT_EQ(backend->watch_name, "a.img");
  ASSERT_EQ(backend->fds.size(), 1U);
  EXPECT_EQ(::fcntl(backend->fds[0].get(), F_GETFL) & O_ACCMODE, O_RDWR);
  EXPECT_NE(::fcntl(backend->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_EQ(backend->config["kind"], "file");
  EXPECT_EQ(backend->config["path"], in_pool("team/db/a.img"));
  EXPECT_EQ(backend->config["size_bytes"], mib);
  EXPECT_EQ(backend->config["direct"], false);
  EXPECT_EQ(backend->config["read_only"], false);
}

TEST_F(BackendStoreTest, ThickIsAllocated) {
  VolumeSpec spec = spec_of("a.img");
  file_of(spec).provisioning = Provisioning::thick;
  const auto backend = store_->open("a", spec, std::nullopt);
  ASSERT_TRUE(backend.ok()) << backend.error().to_string();
  EXPECT_GE(allocated_bytes(in_pool("a.img")), mib);
  EXPECT_EQ(backend->discard_granularity_bytes, 0U) << "a mkfs in it would give all of it back";
}

TEST_F(BackendStoreTest, AnExistingFileIsTakenAsItIsAndGrown) {
  write("a.img", "precious");
  ASSERT_TRUE(store_->open("a", spec_of("a.img"), std::nullopt).ok());
  EXPECT_EQ(size_of(in_pool("a.img")), mib);
  EXPECT_EQ(read_file(in_pool("a.img"), mib)->substr(0, 8), "precious");
}

TEST_F(BackendStoreTest, AFileLargerThanTheVolumeIsRefusedAndUntouched) {
  write("a.img", std::string(2000, 'x'));
  const auto backend = store_->open("a", spec_of("a.img", 1024), std::nullopt);
  ASSERT_EQ(backend.err(), EFBIG);
  EXPECT_NE(backend.error().detail.find("2000"), std::string::npos) << backend.error().detail;
  EXPECT_NE(backend.error().detail.find("1024"), std::string::npos);
  EXPECT_EQ(size_of(in_pool("a.img")), 2000U);
  EXPECT_TRUE(store_->open("b", spec_of("a.img", 2000), std::nullopt).ok())
      << "a refused open leaves no claim";
}

TEST_F(BackendStoreTest, AnUnknownPoolNamesTheKnownOnes) {
  VolumeSpec spec = spec_of("a.img");
  file_of(spec).pool = "fats";
  const auto backend = store_->open("a", spec, std::nullopt);
  ASSERT_EQ(backend.err(), ENOENT);
  EXPECT_NE(backend.error().detail.find("default, disk, fast"), std::string::npos)
      << backend.error().to_string();
}

TEST_F(BackendStoreTest, APoolWhoseFolderIsMissingIsNotMade) {
  VolumeSpec spec = spec_of("a.img");
  file_of(spec).pool = "fast";
  EXPECT_EQ(store_->open("a", spec, std::nullopt).err(), ENOENT);
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/unmounted"));
}

TEST_F(BackendStoreTest, NothingOutsideOfThePoolIsReached) {
  std::filesystem::create_directory(dir_ + "/outside");
  ASSERT_TRUE(write_file_atomically(dir_ + "/outside/secret.img", "secret").ok());
  std::filesystem::create_directory_symlink(dir_ + "/outside", in_pool("folder"));
  std::filesystem::create_symlink(dir_ + "/outside/secret.img", in_pool("link.img"));
  std::filesystem::create_symlink(dir_ + "/outside/new.img", in_pool("dangling.img"));
  write("real.img", "");
  std::filesystem::create_symlink("real.img", in_pool("inner.img"));
  const struct {
    const char* path;
    int err;
  } cases[] = {
      {"../outside/secret.img", EXDEV},
      {"a/../../outside/secret.img", EXDEV},
      {"/etc/passwd", EXDEV},
      {"folder/secret.img", ELOOP},
      {"folder/new.img", ELOOP},
      {"link.img", ELOOP},
      {"dangling.img", ELOOP},
      {"inner.img", ELOOP},
      {"", EISDIR},
      {"sub/", EISDIR},
  };
  for (const auto& [path, err] : cases) {
    const auto backend = store_->open("a", spec_of(path), std::nullopt);
    EXPECT_EQ(backend.err(), err) << path;
    if (!backend) {
      EXPECT_FALSE(backend.error().detail.empty()) << path;
    }
  }
  EXPECT_EQ(read_file(dir_ + "/outside/secret.img", 100).value(), "secret");
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/outside/new.img"));
}

TEST_F(BackendStoreTest, OnlyRegularFilesAreTaken) {
  std::filesystem::create_directory(in_pool("folder"));
  ASSERT_EQ(::mkfifo(in_pool("pipe").c_str(), 0600), 0);
  EXPECT_EQ(store_->open("a", spec_of("folder"), std::nullopt).err(), EISDIR);
  EXPECT_EQ(store_->open("a", spec_of("pipe"), std::nullopt).err(), EINVAL);
  if (::mknod(in_pool("disk").c_str(), S_IFBLK | 0600, makedev(7, 0)) == 0) {
    EXPECT_EQ(store_->open("a", spec_of("disk"), std::nullopt).err(), EINVAL);
  }
}

TEST_F(BackendStoreTest, OneFileBelongsToOneVolumeUntilItIsReleased) {
  ASSERT_TRUE(store_->open("first", spec_of("a.img"), std::nullopt).ok());
  std::filesystem::create_hard_link(in_pool("a.img"), in_pool("same.img"));
  for (const char* path : {"a.img", "./a.img", "same.img"}) {
    const auto second = store_->open("second", spec_of(path), std::nullopt);
    ASSERT_EQ(second.err(), EBUSY) << path;
    EXPECT_NE(second.error().detail.find("'first'"), std::string::npos);
  }
  EXPECT_TRUE(store_->open("first", spec_of("a.img"), std::nullopt).ok()) << "its own again";
  store_->release("first");
  EXPECT_TRUE(store_->open("second", spec_of("a.img"), std::nullopt).ok());
}

TEST_F(BackendStoreTest, AFileReservedForItsVolumeIsNobodyElsesWhoeverComesFirst) {
  const auto identity = store_->open("first", spec_of("a.img"), std::nullopt)->identity;
  BackendStore next_life({{"default", Pool(pool())}});
  next_life.reserve("first", *identity);
  const auto second = next_life.open("second", spec_of("a.img"), std::nullopt);
  ASSERT_EQ(second.err(), EBUSY);
  EXPECT_NE(second.error().detail.find("'first'"), std::string::npos);
  EXPECT_EQ(next_life.remove("second", spec_of("a.img"), *identity).err(), EBUSY);
  EXPECT_TRUE(next_life.open("first", spec_of("a.img"), identity).ok());
  next_life.release("first");
  EXPECT_TRUE(next_life.open("second", spec_of("a.img"), std::nullopt).ok());
}

TEST_F(BackendStoreTest, WithoutAnIdentityAFileInUseIsNeverMadeOrGrown) {
  EXPECT_EQ(store_->open_existing("a", spec_of("a.img")).err(), ENOENT);
  EXPECT_FALSE(std::filesystem::exists(in_pool("a.img")));
  write("a.img", "short");
  EXPECT_EQ(store_->open_existing("a", spec_of("a.img")).err(), ESTALE);
  EXPECT_EQ(size_of(in_pool("a.img")), 5U);
  std::filesystem::resize_file(in_pool("a.img"), mib);
  EXPECT_TRUE(store_->open_existing("a", spec_of("a.img")).ok());
}

TEST_F(BackendStoreTest, WhetherAFileCouldGrowIsAskedWithoutGrowingIt) {
  const auto identity = store_->open("a", spec_of("a.img"), std::nullopt)->identity;
  VolumeSpec larger = spec_of("a.img", 2 * mib);
  EXPECT_TRUE(store_->check_growth(larger, *identity).ok());
  file_of(larger).provisioning = Provisioning::thick;
  EXPECT_TRUE(store_->check_growth(larger, *identity).ok());
  larger.size_bytes = uint64_t{1} << 60;
  EXPECT_EQ(store_->check_growth(larger, *identity).err(), ENOSPC);
  EXPECT_EQ(size_of(in_pool("a.img")), mib);
}

TEST_F(BackendStoreTest, AKnownFileIsFoundAgain) {
  const auto first = store_->open("a", spec_of("a.img"), std::nullopt);
  ASSERT_TRUE(first.ok());
  const auto again = store_->open("a", spec_of("a.img"), first->identity);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->identity, first->identity);
  EXPECT_TRUE(store_->check(spec_of("a.img"), *first->identity).ok());
}

TEST_F(BackendStoreTest, AKnownFileThatIsGoneIsNeverMadeAnew) {
  const auto first = store_->open("a", spec_of("sub/a.img"), std::nullopt);
  ASSERT_TRUE(first.ok());
  std::filesystem::remove_all(in_pool("sub"));
  EXPECT_EQ(store_->check(spec_of("sub/a.img"), *first->identity).err(), ENOENT);
  EXPECT_EQ(store_->open("a", spec_of("sub/a.img"), first->identity).err(), ENOENT);
  EXPECT_FALSE(std::filesystem::exists(in_pool("sub")));
}

TEST_F(BackendStoreTest, AKnownFileThatWasReplacedIsStale) {
  BackendIdentity known;
  {
    const auto first = store_->open("a", spec_of("a.img"), std::nullopt);
    ASSERT_TRUE(first.ok());
    known = *first->identity;
  }
  // Nobody has the old one open any more: the file system may give its inode number to the new one.
  std::filesystem::remove(in_pool("a.img"));
  write("a.img", std::string(mib, 'x'));
  EXPECT_EQ(store_->check(spec_of("a.img"), known).err(), ESTALE);
  EXPECT_EQ(store_->open("a", spec_of("a.img"), known).err(), ESTALE);
}

TEST_F(BackendStoreTest, AKnownFileThatWasCutIsStaleAndNotFilledWithZeros) {
  const auto first = store_->open("a", spec_of("a.img"), std::nullopt);
  ASSERT_TRUE(first.ok());
  std::filesystem::resize_file(in_pool("a.img"), mib / 2);
  EXPECT_EQ(store_->check(spec_of("a.img"), *first->identity).err(), ESTALE);
  const auto again = store_->open("a", spec_of("a.img"), first->identity);
  ASSERT_EQ(again.err(), ESTALE);
  EXPECT_NE(again.error().detail.find("was cut"), std::string::npos);
  EXPECT_EQ(size_of(in_pool("a.img")), mib / 2);
}

TEST_F(BackendStoreTest, AKnownFileGrowsWhenTheSpecDoes) {
  const auto first = store_->open("a", spec_of("a.img"), std::nullopt);
  ASSERT_TRUE(first.ok());
  const auto larger = store_->open("a", spec_of("a.img", 2 * mib), first->identity);
  ASSERT_TRUE(larger.ok()) << larger.error().to_string();
  EXPECT_EQ(size_of(in_pool("a.img")), 2 * mib);
  EXPECT_EQ(larger->identity->size_bytes, 2 * mib);
  EXPECT_EQ(larger->identity->inode, first->identity->inode);
}

TEST_F(BackendStoreTest, AReadOnlyFileIsNeitherMadeNorGrown) {
  VolumeSpec spec = spec_of("a.img", 1024);
  spec.read_only = true;
  EXPECT_EQ(store_->open("a", spec, std::nullopt).err(), ENOENT);
  EXPECT_FALSE(std::filesystem::exists(in_pool("a.img")));
  write("a.img", "short");
  EXPECT_EQ(store_->open("a", spec, std::nullopt).err(), EINVAL);
  EXPECT_EQ(size_of(in_pool("a.img")), 5U);
  write("a.img", std::string(1024, 'x'));
  const auto backend = store_->open("a", spec, std::nullopt);
  ASSERT_TRUE(backend.ok()) << backend.error().to_string();
  EXPECT_EQ(::fcntl(backend->fds[0].get(), F_GETFL) & O_ACCMODE, O_RDONLY);
  EXPECT_EQ(backend->discard_granularity_bytes, 0U);
  EXPECT_EQ(backend->config["read_only"], true);
}

TEST_F(BackendStoreTest, DirectIOIsAskedOfTheFileSystem) {
  VolumeSpec spec = spec_of("a.img");
  file_of(spec).direct_io = true;
  for (int i = 0; i < 2; ++i) {  // made, then found
    const auto backend = store_->open("a", spec, std::nullopt);
    if (backend.err() == EINVAL) GTEST_SKIP() << "no direct I/O in " << dir_;
    ASSERT_TRUE(backend.ok()) << backend.error().to_string();
    EXPECT_NE(::fcntl(backend->fds[0].get(), F_GETFL) & O_DIRECT, 0);
    EXPECT_EQ(backend->config["direct"], true);
  }
}

TEST_F(BackendStoreTest, ADuplicateHasDescriptorsOfItsOwn) {
  auto backend = store_->open("a", spec_of("a.img"), std::nullopt);
  ASSERT_TRUE(backend.ok());
  const auto copy = backend->duplicate();
  ASSERT_TRUE(copy.ok());
  ASSERT_EQ(copy->fds.size(), 1U);
  EXPECT_NE(copy->fds[0].get(), backend->fds[0].get());
  backend->fds.clear();
  struct stat info{};
  EXPECT_EQ(::fstat(copy->fds[0].get(), &info), 0);
  EXPECT_EQ(copy->config, backend->config);
  EXPECT_EQ(copy->identity, backend->identity);
}

TEST_F(BackendStoreTest, RemoveTakesOnlyTheVolumesOwnFile) {
  const auto first = store_->open("a", spec_of("sub/a.img"), std::nullopt);
  ASSERT_TRUE(first.ok());
  BackendIdentity other = *first->identity;
  other.inode += 1;
  EXPECT_EQ(store_->remove("a", spec_of("sub/a.img"), other).err(), EEXIST);
  EXPECT_EQ(store_->remove("b", spec_of("sub/a.img"), *first->identity).err(), EBUSY);
  EXPECT_TRUE(std::filesystem::exists(in_pool("sub/a.img")));
  EXPECT_TRUE(store_->remove("a", spec_of("sub/a.img"), *first->identity).ok());
  EXPECT_FALSE(std::filesystem::exists(in_pool("sub/a.img")));
  EXPECT_TRUE(store_->remove("a", spec_of("sub/a.img"), *first->identity).ok()) << "gone is fine";
  std::filesystem::remove(in_pool("sub"));
  EXPECT_TRUE(store_->remove("a", spec_of("sub/a.img"), *first->identity).ok());
}

TEST_F(BackendStoreTest, AFileThatAnotherVolumeAsksForIsNotRemoved) {
  // metadata.name edited in a manifest: volume a goes and volume b comes, with the same file.
  const auto first = store_->open("a", spec_of("a.img"), std::nullopt);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(store_->open("b", spec_of("a.img"), std::nullopt).err(), EBUSY);
  EXPECT_EQ(store_->remove("a", spec_of("a.img"), *first->identity).err(), EBUSY);
  EXPECT_TRUE(std::filesystem::exists(in_pool("a.img")));
  store_->release("a");
  EXPECT_TRUE(store_->open("b", spec_of("a.img"), std::nullopt).ok());
}

TEST_F(BackendStoreTest, VolumesThatRaceForOneFileLeaveItToOneOfThem) {
  for (int round = 0; round < 20; ++round) {
    const std::string path = "race-" + std::to_string(round) + "/a.img";
    std::atomic<int> won = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t)
      threads.emplace_back([&, t] {
        const auto backend = store_->open("v" + std::to_string(t), spec_of(path), std::nullopt);
        if (backend) {
          ++won;
        } else {
          EXPECT_EQ(backend.err(), EBUSY) << backend.error().to_string();
        }
      });
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(won, 1);
    EXPECT_EQ(size_of(in_pool(path)), mib);
  }
}

TEST_F(BackendStoreTest, AFullPoolLeavesNoHalfMadeFileBehind) {
  const int result = in_private_mounts([&] {
    if (::mount("tmpfs", pool().c_str(), "tmpfs", 0, "size=1m") < 0) return 77;
    VolumeSpec spec = spec_of("a.img", 16 * mib);
    file_of(spec).provisioning = Provisioning::thick;
    const auto backend = store_->open("a", spec, std::nullopt);
    if (backend.err() != ENOSPC) return 1;
    if (backend.error().detail.find("'default'") == std::string::npos) return 2;
    if (std::filesystem::exists(in_pool("a.img"))) return 3;
    file_of(spec).provisioning = Provisioning::thin;
    return store_->open("b", spec, std::nullopt).ok() ? 0 : 4;
  });
  if (result == 77) GTEST_SKIP() << "needs root for a private mount namespace";
  EXPECT_EQ(result, 0);
}

// From here on in this process each fallocate() fails with EIO.
bool forbid_fallocate() {
  std::array<sock_filter, 4> program{{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_fallocate, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EIO),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  }};
  const sock_fprog filter{program.size(), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

// An allocation that fails at its end has filled the file system for everybody else meanwhile.
TEST_F(BackendStoreTest, WhatDoesNotFitIsNotTried) {
  const int result = in_private_mounts([&] {
    if (::mount("tmpfs", pool().c_str(), "tmpfs", 0, "size=1m") < 0) return 77;
    if (!forbid_fallocate()) return 77;
    VolumeSpec spec = spec_of("a.img", 16 * mib);
    file_of(spec).provisioning = Provisioning::thick;
    return store_->open("a", spec, std::nullopt).err() == ENOSPC ? 0 : 1;
  });
  if (result == 77) GTEST_SKIP() << "needs root for a private mount namespace";
  EXPECT_EQ(result, 0);
}

TEST_F(BackendStoreTest, AFileSystemThatCannotAllocateOrPunchHolesIsSaidSo) {
  const int result = in_private_mounts([&] {
    if (::mount("ramfs", pool().c_str(), "ramfs", 0, nullptr) < 0) return 77;
    VolumeSpec spec = spec_of("a.img");
    file_of(spec).provisioning = Provisioning::thick;
    const auto thick = store_->open("a", spec, std::nullopt);
    if (thick.err() != EOPNOTSUPP) return 1;
    if (thick.error().detail.find("Thin") == std::string::npos) return 2;
    if (std::filesystem::exists(in_pool("a.img"))) return 3;
    const auto thin = store_->open("a", spec_of("a.img"), std::nullopt);
    if (!thin) return 4;
    if (thin->discard_granularity_bytes != 0) return 5;
    VolumeSpec direct = spec_of("direct.img");
    file_of(direct).direct_io = true;
    const auto refused = store_->open("b", direct, std::nullopt);
    if (refused.err() != EINVAL) return 6;
    if (refused.error().detail.find("directIO") == std::string::npos) return 7;
    return std::filesystem::exists(in_pool("direct.img")) ? 8 : 0;
  });
  if (result == 77) GTEST_SKIP() << "needs root for a private mount namespace";
  EXPECT_EQ(result, 0);
}

TEST_F(BackendStoreTest, HolesCanBePunchedWhereTheFileSystemSaysSo) {
  const int result = in_private_mounts([&] {
    if (::mount("tmpfs", pool().c_str(), "tmpfs", 0, nullptr) < 0) return 77;
    const auto backend = store_->open("a", spec_of("a.img"), std::nullopt);
    if (!backend) return 1;
    if (size_of(in_pool("a.img")) != mib) return 2;
    return backend->discard_granularity_bytes == 4096 ? 0 : 3;
  });
  if (result == 77) GTEST_SKIP() << "needs root for a private mount namespace";
  EXPECT_EQ(result, 0);
}

TEST_F(BackendStoreTest, APoolThatMustBeAMountTakesNoNewFileWhileItIsNone) {
  std::filesystem::create_directory(dir_ + "/disk");
  VolumeSpec spec = spec_of("a.img");
  file_of(spec).pool = "disk";
  const auto refused = store_->open("a", spec, std::nullopt);
  ASSERT_EQ(refused.err(), ENOMEDIUM);
  EXPECT_NE(refused.error().to_string().find("pool disk"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/disk/a.img"));
  EXPECT_EQ(store_->remove("a", spec, BackendIdentity{1, 2, 3, mib}).err(), ENOMEDIUM)
      << "what cannot be seen is not removed";
  const int result = in_private_mounts([&] {
    if (::mount("tmpfs", (dir_ + "/disk").c_str(), "tmpfs", 0, nullptr) < 0) return 77;
    return store_->open("a", spec, std::nullopt).ok() ? 0 : 1;
  });
  if (result == 77) GTEST_SKIP() << "needs root for a private mount namespace";
  EXPECT_EQ(result, 0);
}

TEST_F(BackendStoreTest, APoolThatMustBeAMountIsNamedWhenWhatAVolumeHadIsNotThere) {
  std::filesystem::create_directory(dir_ + "/disk");
  VolumeSpec spec = spec_of("a.img");
  file_of(spec).pool = "disk";
  const BackendIdentity had{1, 2, 3, mib};
  EXPECT_EQ(store_->open("a", spec, had).err(), ENOMEDIUM) << "nothing lies below the mount";
  std::ofstream(dir_ + "/disk/a.img") << std::string(2 * mib, 'x');
  EXPECT_EQ(store_->open("a", spec, had).err(), ENOMEDIUM) << "another file lies there";
  EXPECT_EQ(store_->open_existing("a", spec).err(), ENOMEDIUM) << "it may be any file";
}

TEST_F(BackendStoreTest, AReadOnlyFileSystemIsSaidSo) {
  const int result = in_private_mounts([&] {
    if (::mount("tmpfs", pool().c_str(), "tmpfs", MS_RDONLY, nullptr) < 0) return 77;
    const auto backend = store_->open("a", spec_of("sub/a.img"), std::nullopt);
    if (backend.err() != EROFS) return 1;
    return backend.error().detail.find("read-only") != std::string::npos ? 0 : 2;
  });
  if (result == 77) GTEST_SKIP() << "needs root for a private mount namespace";
  EXPECT_EQ(result, 0);
}

}  // namespace
}  // namespace ublk_operator

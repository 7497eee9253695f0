// Bad input concerns one volume: it says so in a condition and an event, keeps serving what it
// served, every other volume goes on, and nothing is lost.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "tests/vm/application.h"
#include "tests/vm/disk.h"
#include "tests/vm/known_data.h"
#include "tests/vm/lab_node.h"

namespace ublk_operator::lab {
namespace {

namespace fs = std::filesystem;

// A temporary folder with a tmpfs of a few MiB on it: a pool that is easily full.
class SmallPool {
 public:
  SmallPool() {
    std::string pattern = "/tmp/ublk-small.XXXXXX";
    EXPECT_NE(::mkdtemp(pattern.data()), nullptr);
    path_ = pattern;
  }
  ~SmallPool() {
    ::umount2(path_.c_str(), MNT_DETACH);
    ::rmdir(path_.c_str());
  }
  SmallPool(const SmallPool&) = delete;
  SmallPool& operator=(const SmallPool&) = delete;
  void mount(const std::string& size) const {
    ASSERT_EQ(::mount("tmpfs", path_.c_str(), "tmpfs", 0, ("mode=0755,size=" + size).c_str()), 0);
  }
  void grow(const std::string& size) const {
    ASSERT_EQ(::mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT, ("size=" + size).c_str()), 0);
  }
  void make_read_only(bool yes) const {
    ASSERT_EQ(::mount("tmpfs", path_.c_str(), "tmpfs", MS_REMOUNT | (yes ? MS_RDONLY : 0), nullptr),
              0);
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Every case has a volume beside it that must not notice: an application writes and verifies on it
// all the time, and it keeps its server.
class BadInputTest : public ::testing::Test {
 protected:
  BadInputTest() : node_({.agent_arguments = {"--pool", "small=" + small_.path()}}) {}

  void SetUp() override {
    node_.apply({.name = "bystander", .size = "16Mi"});
    ASSERT_TRUE(node_.wait_ready("bystander"));
    bystander_server_ = node_.server_pid("bystander");
    bystander_.emplace(node_.device("bystander"), 20ms);
  }

  void TearDown() override {
    if (!bystander_) return;
    EXPECT_TRUE(bystander_->progress(3));
    bystander_->stop();
    EXPECT_EQ(bystander_->errors(), 0U);
    EXPECT_EQ(bystander_->verify_all(), 0);
    EXPECT_EQ(node_.server_pid("bystander"), bystander_server_);
    EXPECT_EQ(node_.get("bystander").status.recovery_count, 0U);
  }

  void make_volume(const ManifestOptions& options) { make_known_volume(node_, options); }
  void expect_serves_its_data(const std::string& name) {
    EXPECT_EQ(node_.kernel_state(name), "LIVE");
    expect_known_data(node_, name);
  }

  [[nodiscard]] std::string message(const std::string& name, const std::string& type) {
    const Volume volume = node_.get(name);
    const auto* condition = find_condition(volume.status.conditions, type);
    return condition == nullptr ? "(no condition)" : condition->message;
  }
  // Until condition TYPE is `status` and says all of `words`.
  [[nodiscard]] bool wait_says(const std::string& name, const std::string& type,
                               const std::string& status, const std::vector<std::string>& words) {
    return node_.wait(name, type + "=" + status, [&](const auto& volume) {
      const auto* condition = volume ? find_condition(volume->status.conditions, type) : nullptr;
      if (condition == nullptr || to_string(condition->status) != status) return false;
      return std::all_of(words.begin(), words.end(), [&](const auto& word) {
        return condition->message.find(word) != std::string::npos;
      });
    });
  }
  // Of a volume, or (no name) of the folder. Events have no watch of their own.
  [[nodiscard]] bool wait_event(const std::string& name, const std::string& reason,
                                const std::string& text) {
    const auto deadline = std::chrono::steady_clock::now() + patience;
    do {
      for (const auto& event : node_.api().events(name))
        if (event.reason == reason && event.message.find(text) != std::string::npos) return true;
      std::this_thread::sleep_for(20ms);
    } while (std::chrono::steady_clock::now() < deadline);
    ADD_FAILURE() << "no event " << reason << " with \"" << text << "\"\n" << node_.story(name);
    return false;
  }
  // Another volume comes up: the agent has looked at the folder since, and works.
  void expect_agent_goes_on(const std::string& name) {
    node_.apply({.name = name, .size = "4Mi", .backend = "null"});
    EXPECT_TRUE(node_.wait_ready(name));
  }

  SmallPool small_;
  LabNode node_;
  std::optional<Application> bystander_;
  pid_t bystander_server_ = -1;
};

std::string text_of(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

// --- manifests -----------------------------------------------------------------------------------

TEST_F(BadInputTest, ABrokenNewManifestIsSaidWithItsPlaceAndCountsOnceRepaired) {
  node_.write_manifest("new.yaml", "apiVersion: ublk.dev/v1alpha1\nkind: [UblkVolume\nspec: }\n");
  EXPECT_TRUE(wait_event("", "ManifestProblem", "new.yaml:3:"));
  // A name that can be read makes a volume that can be asked about.
  node_.write_manifest("typo.yaml", manifest({.name = "typo", .extra = "  queueDepht: 8\n"}));
  EXPECT_TRUE(wait_says("typo", "SpecValid", "False",
                        {"typo.yaml:12:3", "queueDepht", "did you mean 'queueDepth'"}));
  EXPECT_TRUE(node_.wait_condition("typo", "Ready", "False", "InvalidSpec"));
  EXPECT_TRUE(node_.has_event("typo", "ManifestBroken"));
  EXPECT_FALSE(fs::exists(node_.pool() + "/typo.img")) << "nothing is made from a guess";

  node_.apply({.name = "new", .size = "4Mi"});
  node_.apply({.name = "typo", .size = "4Mi", .extra = "  queueDepth: 8\n"});
  EXPECT_TRUE(node_.wait_ready("new"));
  EXPECT_TRUE(node_.wait_ready("typo"));
}

TEST_F(BadInputTest, ABrokenManifestOfALiveVolumeChangesNothingAlsoForTheNextAgent) {
  make_volume({});
  const pid_t server = node_.server_pid("vol");

  // First a document that is YAML, then one that is not: neither its name nor its end is known.
  node_.apply({.extra = "  recovry: {}\n"});
  EXPECT_TRUE(wait_says("vol", "SpecValid", "False",
                        {"vol.yaml:12:3", "recovry", "did you mean 'recovery'"}));
  EXPECT_TRUE(node_.has_event("vol", "ManifestBroken"));
  node_.write_manifest("vol.yaml", "apiVersion: ublk.dev/v1alpha1\nkind: [UblkVolume\nspec: }\n");
  EXPECT_TRUE(wait_says("vol", "SpecValid", "False", {"vol.yaml:3:"}));
  EXPECT_TRUE(wait_event("vol", "ManifestBroken", "vol.yaml:3:"));
  expect_serves_its_data("vol");

  node_.kill_agent();
  node_.start_agent();
  EXPECT_TRUE(wait_says("vol", "SpecValid", "False", {"vol.yaml:3:"}));
  expect_agent_goes_on("later");  // and the time in which removals settle is over
  expect_serves_its_data("vol");
  EXPECT_EQ(node_.server_pid("vol"), server);

  // An empty file, as an editor or a full disk leaves it.
  node_.write_manifest("vol.yaml", "");
  EXPECT_TRUE(wait_says("vol", "SpecValid", "False", {"holds no document"}));
  expect_agent_goes_on("later2");
  expect_serves_its_data("vol");

  node_.apply({});
  EXPECT_TRUE(node_.wait_condition("vol", "SpecValid", "True"));
  EXPECT_EQ(node_.server_pid("vol"), server);
  EXPECT_FALSE(node_.has_event("vol", "Removed"));
}

TEST_F(BadInputTest, WrongNumbersAreRefusedWithTheirPlaceAndTheirBounds) {
  struct Case {
    std::string name, size, extra, expected;
  };
  const std::vector<Case> cases = {
      {"q-negative", "4Mi", "  queues: -1\n", "12:11: spec.queues"},
      {"q-none", "4Mi", "  queues: 0\n", "spec.queues"},
      {"q-absurd", "4Mi", "  queues: 100000\n", "4096"},
      {"d-negative", "4Mi", "  queueDepth: -5\n", "12:15: spec.queueDepth"},
      {"d-absurd", "4Mi", "  queueDepth: 99999999999999999999\n", "spec.queueDepth"},
      {"memory", "4Mi", "  queues: 64\n  queueDepth: 4096\n  maxIOSize: 1Mi\n", "1Gi"},
      {"size-unit", "4Zi", "", "6:9: spec.size"},
      {"size-negative", "-4Mi", "", "spec.size"},
      {"size-none", "0", "", "spec.size"},
      {"size-uneven", "4097", "", "logicalBlockSize"},
      {"twice", "4Mi", "  queues: 1\n  queues: 2\n", "queues"},
      {"mode", "4Mi", "  device:\n    mode: \"999\"\n", "spec.device.mode"},
  };
  for (const auto& c : cases) node_.apply({.name = c.name, .size = c.size, .extra = c.extra});
  for (const auto& c : cases) {
    EXPECT_TRUE(wait_says(c.name, "SpecValid", "False", {c.name + ".yaml:", c.expected}));
    EXPECT_TRUE(node_.has_event(c.name, "ManifestBroken")) << c.name;
    EXPECT_FALSE(node_.get(c.name).status.device_id) << c.name;
  }
}

TEST_F(BadInputTest, OfTwoManifestsOfOneNameTheFirstAcceptedStays) {
  make_volume({.size = "16Mi"});
  const pid_t server = node_.server_pid("vol");
  // By file name it would come first.
  node_.write_manifest("a.yaml", manifest({.size = "32Mi", .path = "other.img"}));
  EXPECT_TRUE(wait_says("vol", "SpecValid", "False", {"a.yaml", "vol.yaml"}));
  EXPECT_TRUE(wait_event("vol", "DuplicateName", "a.yaml"));
  EXPECT_EQ(node_.get("vol").spec.size_bytes, 16U << 20);
  EXPECT_FALSE(fs::exists(node_.pool() + "/other.img"));
  expect_serves_its_data("vol");

  node_.remove_manifest("a.yaml");
  EXPECT_TRUE(node_.wait_condition("vol", "SpecValid", "True"));
  EXPECT_EQ(node_.server_pid("vol"), server);
}

TEST_F(BadInputTest, AHalfWrittenManifestCountsOnceItsWriterClosedIt) {
  make_volume({.size = "16Mi"});
  const pid_t server = node_.server_pid("vol");
  const std::string whole = manifest({.size = "16Mi", .extra = "  reclaimPolicy: Delete\n---\n"}) +
                            manifest({.name = "second", .size = "4Mi"});
  {
    const UniqueFd writer(
        ::open((node_.volumes() + "/vol.yaml").c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
    ASSERT_TRUE(writer.valid());
    // All of one document: it would be valid as it stands.
    const std::string_view half = std::string_view(whole).substr(0, whole.find("  reclaim"));
    ASSERT_EQ(::write(writer.get(), half.data(), half.size()), static_cast<ssize_t>(half.size()));
    // Something else makes the agent look at the folder, and its writer takes its time.
    expect_agent_goes_on("later");
    EXPECT_TRUE(wait_says("vol", "SpecValid", "False", {"open for writing"}));
    expect_serves_its_data("vol");
    EXPECT_FALSE(node_.has_event("vol", "Removed"));
    const std::string_view rest = std::string_view(whole).substr(half.size());
    ASSERT_EQ(::write(writer.get(), rest.data(), rest.size()), static_cast<ssize_t>(rest.size()));
  }
  EXPECT_TRUE(node_.wait("vol", "reclaimPolicy Delete", [](const auto& volume) {
    return volume && volume->spec.reclaim_policy == ReclaimPolicy::remove;
  }));
  EXPECT_TRUE(node_.wait_condition("vol", "SpecValid", "True"));
  EXPECT_TRUE(node_.wait_ready("second"));
  EXPECT_EQ(node_.server_pid("vol"), server);
}

TEST_F(BadInputTest, AFolderThatVanishesOrIsMountedOverIsNoRemoval) {
  make_volume({.size = "16Mi", .extra = "  reclaimPolicy: Delete\n"});
  const pid_t server = node_.server_pid("vol");

  fs::rename(node_.volumes(), node_.dir("away"));
  EXPECT_TRUE(wait_event("", "ManifestProblem", "go on as they are"));
  expect_serves_its_data("vol");
  fs::rename(node_.dir("away"), node_.volumes());
  expect_agent_goes_on("back");

  // Unmounted, seen from the other side: an empty file system lies over it.
  ASSERT_EQ(::mount("tmpfs", node_.volumes().c_str(), "tmpfs", 0, nullptr), 0);
  expect_agent_goes_on("above");
  expect_agent_goes_on("above2");  // and what is missing has been so for a while
  expect_serves_its_data("vol");
  ASSERT_EQ(::umount2(node_.volumes().c_str(), MNT_DETACH), 0);
  expect_agent_goes_on("back2");

  // Made anew, empty: not the folder that the volumes came from.
  fs::rename(node_.volumes(), node_.dir("away"));
  fs::create_directory(node_.volumes());
  expect_agent_goes_on("new-folder");
  expect_agent_goes_on("new-folder2");
  expect_serves_its_data("vol");
  fs::remove_all(node_.volumes());
  fs::rename(node_.dir("away"), node_.volumes());
  expect_agent_goes_on("back3");

  EXPECT_FALSE(node_.has_event("vol", "Removed"));
  EXPECT_EQ(node_.server_pid("vol"), server);
  // A removal is one again.
  node_.remove_manifest("vol.yaml");
  EXPECT_TRUE(node_.wait_gone("vol"));
  EXPECT_FALSE(fs::exists(node_.pool() + "/vol.img"));
}

// --- backends ------------------------------------------------------------------------------------

TEST_F(BadInputTest, APathOutsideItsPoolIsRefused) {
  const std::string outside = node_.dir("outside");
  std::ofstream(outside) << "not yours";
  fs::create_directory(node_.dir("elsewhere"));
  fs::create_symlink(outside, node_.pool() + "/link.img");
  fs::create_directory_symlink(node_.dir("elsewhere"), node_.pool() + "/sub");

  node_.apply({.name = "dotdot", .size = "4Mi", .path = "../outside"});
  node_.apply({.name = "absolute", .size = "4Mi", .path = outside});
  node_.apply({.name = "link", .size = "4Mi", .path = "link.img"});
  node_.apply({.name = "sublink", .size = "4Mi", .path = "sub/vol.img"});
  EXPECT_TRUE(wait_says("dotdot", "SpecValid", "False", {"dotdot.yaml:11:13", "'..'"}));
  EXPECT_TRUE(wait_says("absolute", "SpecValid", "False", {"absolute.yaml:11:13", "relative"}));
  // What lies in the pool is seen when it is opened.
  for (const auto& name : {"link", "sublink"}) {
    EXPECT_TRUE(wait_says(name, "BackendHealthy", "False", {"ELOOP", "symbolic link"}));
    EXPECT_TRUE(node_.wait_condition(name, "Ready", "False", "BackendUnavailable"));
    EXPECT_TRUE(node_.has_event(name, "BackendUnavailable"));
  }
  EXPECT_EQ(text_of(outside), "not yours");
  EXPECT_TRUE(fs::is_empty(node_.dir("elsewhere")));
}

TEST_F(BadInputTest, OfTwoVolumesOnOneFileTheSecondIsRefused) {
  make_volume({.size = "16Mi", .path = "shared.img"});
  fs::create_hard_link(node_.pool() + "/shared.img", node_.pool() + "/other-name.img");
  node_.apply({.name = "second", .size = "16Mi", .path = "shared.img"});
  node_.apply({.name = "third", .size = "16Mi", .path = "other-name.img"});
  for (const auto& name : {"second", "third"}) {
    EXPECT_TRUE(wait_says(name, "BackendHealthy", "False", {"EBUSY", "volume 'vol'"}));
    EXPECT_TRUE(node_.has_event(name, "BackendUnavailable"));
    EXPECT_FALSE(node_.get(name).status.device_id);
  }
  expect_serves_its_data("vol");
  // Whoever asks first after a restart: "second" comes before "vol".
  node_.kill_agent();
  node_.start_agent();
  ASSERT_TRUE(node_.wait_ready("vol"));
  for (const auto& name : {"second", "third"}) {
    EXPECT_TRUE(wait_says(name, "BackendHealthy", "False", {"EBUSY", "volume 'vol'"}));
    EXPECT_FALSE(node_.get(name).status.device_id);
  }
  node_.kill_server("vol");
  ASSERT_TRUE(node_.wait_recovered("vol", 0));
  expect_serves_its_data("vol");
  // Its refusal is no claim: removing the second with Delete takes nothing away from the first.
  node_.apply({.name = "second",
               .size = "16Mi",
               .path = "shared.img",
               .extra = "  reclaimPolicy: Delete\n"});
  node_.remove_manifest("second.yaml");
  EXPECT_TRUE(node_.wait_gone("second"));
  EXPECT_TRUE(fs::exists(node_.pool() + "/shared.img"));
  expect_serves_its_data("vol");
}

TEST_F(BadInputTest, AFileLargerThanTheSizeIsNotCut) {
  const std::string file = node_.pool() + "/old.img";
  std::ofstream(file) << "precious";
  fs::resize_file(file, 32 << 20);
  node_.apply({.name = "old", .size = "16Mi"});
  EXPECT_TRUE(wait_says("old", "BackendHealthy", "False", {"EFBIG", "raise spec.size"}));
  EXPECT_TRUE(node_.has_event("old", "BackendUnavailable"));
  EXPECT_EQ(fs::file_size(file), 32U << 20);
  node_.apply({.name = "old", .size = "32Mi"});
  EXPECT_TRUE(node_.wait_ready("old"));
  EXPECT_EQ(shell("head -c 8 " + node_.device("old") + " | grep -q precious"), 0)
      << "an existing file is taken as it is";
}

TEST_F(BadInputTest, ABackendThatCannotBeOpenedIsTriedAgainUntilItCan) {
  fs::create_directory(node_.pool() + "/folder.img");
  ASSERT_EQ(::mkfifo((node_.pool() + "/fifo.img").c_str(), 0600), 0);
  small_.mount("64m");
  small_.make_read_only(true);
  const std::string in_small = "\n      pool: small";
  node_.apply({.name = "folder", .size = "4Mi"});
  node_.apply({.name = "fifo", .size = "4Mi"});
  node_.apply({.name = "nopool", .size = "4Mi", .path = "x.img\n      pool: gold"});
  node_.apply({.name = "frozen", .size = "4Mi", .path = "frozen.img" + in_small});
  EXPECT_TRUE(wait_says("folder", "BackendHealthy", "False", {"EISDIR"}));
  EXPECT_TRUE(wait_says("fifo", "BackendHealthy", "False", {"EINVAL", "not a regular file"}));
  EXPECT_TRUE(wait_says("nopool", "BackendHealthy", "False", {"no such pool", "default", "small"}));
  EXPECT_TRUE(wait_says("frozen", "BackendHealthy", "False", {"EROFS"}));
  for (const auto& name : {"folder", "fifo", "nopool", "frozen"})
    EXPECT_TRUE(node_.wait_condition(name, "Ready", "False", "BackendUnavailable"));

  small_.make_read_only(false);
  fs::remove(node_.pool() + "/folder.img");
  fs::remove(node_.pool() + "/fifo.img");
  for (const auto& name : {"folder", "fifo", "frozen"}) {
    EXPECT_TRUE(node_.wait_ready(name));
    EXPECT_TRUE(node_.wait_condition(name, "BackendHealthy", "True"));
  }
}

TEST_F(BadInputTest, AFullPoolIsSaidOfThickAndFailsOnlyTheWritesOfThin) {
  small_.mount("8m");
  const std::string thick = "full.img\n      pool: small\n      provisioning: Thick";
  node_.apply({.name = "full", .size = "32Mi", .path = thick});
  EXPECT_TRUE(wait_says("full", "BackendHealthy", "False", {"ENOSPC", "pool 'small'"}));
  EXPECT_TRUE(node_.has_event("full", "BackendUnavailable"));
  EXPECT_TRUE(fs::is_empty(small_.path())) << "half a file is left behind";

  make_volume({.name = "full", .size = "32Mi", .path = "full.img\n      pool: small"});
  const pid_t server = node_.server_pid("full");
  const Disk disk(node_.device("full"));
  EXPECT_EQ(disk.write_range(known_blocks, 4096, 3), ENOSPC);
  EXPECT_EQ(disk.verify_range(0, known_blocks, known_version), 0)
      << "what was written before is there";
  EXPECT_EQ(node_.kernel_state("full"), "LIVE");
  EXPECT_GE(node_.get("full").status.io_errors["ENOSPC"], 1U);
  small_.grow("64m");
  EXPECT_EQ(disk.write_range(known_blocks, 4096, 4), 0);
  EXPECT_EQ(disk.verify_range(known_blocks, 4096, 4), 0);
  EXPECT_EQ(node_.server_pid("full"), server);
}

TEST_F(BadInputTest, ASizeThatCannotBeMadeCostsNothingAndCanBeTakenBack) {
  small_.mount("16m");
  const std::string thick = "vol.img\n      pool: small\n      provisioning: Thick";
  make_volume({.size = "4Mi", .path = thick});
  const pid_t server = node_.server_pid("vol");
  node_.apply({.size = "32Mi", .path = thick});
  ASSERT_TRUE(wait_says("vol", "NeedsRecreate", "True", {"ENOSPC", "pool 'small'"}));
  EXPECT_EQ(node_.server_pid("vol"), server);
  expect_serves_its_data("vol");
  node_.apply({.size = "4Mi", .path = thick});
  ASSERT_TRUE(node_.wait_condition("vol", "NeedsRecreate", "False"));
  EXPECT_TRUE(node_.wait_condition("vol", "SpecValid", "True"));
  EXPECT_EQ(node_.server_pid("vol"), server);
}

TEST_F(BadInputTest, ALostStateFolderCostsNoData) {
  make_volume({.size = "16Mi"});
  node_.kill_agent();
  fs::remove_all(node_.dir("state"));
  // Meanwhile somebody moved the file away: a new empty one must not take its place.
  fs::rename(node_.pool() + "/vol.img", node_.pool() + "/moved.img");
  node_.start_agent();
  ASSERT_TRUE(wait_says("vol", "BackendHealthy", "False", {"ENOENT"}));
  EXPECT_EQ(node_.kernel_state("vol"), "LIVE");
  EXPECT_FALSE(fs::exists(node_.pool() + "/vol.img"));
  fs::rename(node_.pool() + "/moved.img", node_.pool() + "/vol.img");
  ASSERT_TRUE(node_.wait_condition("vol", "BackendHealthy", "True"));
  const uint64_t before = node_.get("vol").status.recovery_count;
  node_.kill_server("vol");
  ASSERT_TRUE(node_.wait_recovered("vol", before));
  expect_serves_its_data("vol");
}

// --- a file changed under a live volume ----------------------------------------------------------

ino_t inode_of(const std::string& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 ? info.st_ino : 0;
}

// Does the process have this very file open?
bool has_open(pid_t pid, ino_t inode) {
  for (const auto& fd : fs::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    struct stat info{};
    if (::stat(fd.path().c_str(), &info) == 0 && S_ISREG(info.st_mode) && info.st_ino == inode)
      return true;
  }
  return false;
}

TEST_F(BadInputTest, AFileRemovedOrReplacedUnderALiveVolumeStaysItsFile) {
  const std::string file = node_.pool() + "/vol.img";
  const std::string saved = node_.pool() + "/saved.img";
  make_volume({.size = "16Mi"});
  const ino_t inode = inode_of(file);
  const pid_t server = node_.server_pid("vol");
  fs::create_hard_link(file, saved);

  fs::remove(file);
  EXPECT_TRUE(wait_says("vol", "BackendHealthy", "False", {"ENOENT", "vol.img", "put it back"}));
  EXPECT_TRUE(node_.has_event("vol", "BackendReplaced"));
  expect_serves_its_data("vol");
  EXPECT_EQ(node_.server_pid("vol"), server);

  std::ofstream(file) << "somebody else's";
  fs::resize_file(file, 16 << 20);
  EXPECT_TRUE(wait_says("vol", "BackendHealthy", "False", {"ESTALE", "another file"}));
  expect_serves_its_data("vol");

  // The next server gets the very file, not what lies in its place now.
  node_.kill_server("vol");
  ASSERT_TRUE(node_.wait_recovered("vol", 0));
  EXPECT_TRUE(has_open(node_.server_pid("vol"), inode));
  expect_serves_its_data("vol");
  EXPECT_TRUE(node_.wait_condition("vol", "BackendHealthy", "False"));
  EXPECT_EQ(text_of(file).substr(0, 15), "somebody else's");

  // Put back, all is well again.
  fs::rename(saved, file);
  EXPECT_TRUE(node_.wait_condition("vol", "BackendHealthy", "True"));
  expect_serves_its_data("vol");
}

TEST_F(BadInputTest, AFileReplacedWhileNobodyServedItIsNotTaken) {
  const std::string file = node_.pool() + "/vol.img";
  make_volume({.size = "16Mi"});
  ASSERT_TRUE(node_.api().stop("vol", true, false).ok());
  fs::rename(file, node_.pool() + "/saved.img");
  std::ofstream(file) << "somebody else's";
  fs::resize_file(file, 16 << 20);
  ASSERT_TRUE(node_.api().stop("vol", false, false).ok());
  EXPECT_TRUE(wait_says("vol", "BackendHealthy", "False", {"ESTALE", "another file"}));
  EXPECT_EQ(text_of(file).substr(0, 15), "somebody else's");
  fs::remove(file);
  EXPECT_TRUE(wait_says("vol", "BackendHealthy", "False", {"ENOENT", "put it back"}));
  EXPECT_FALSE(fs::exists(file)) << "an empty file must not take the place of data";
  fs::rename(node_.pool() + "/saved.img", file);
  EXPECT_TRUE(node_.wait_ready("vol"));
  expect_serves_its_data("vol");
}

}  // namespace
}  // namespace ublk_operator::lab

#include "node/agent/manifest_folder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <functional>
#include <thread>

#include "common/base/files.h"

namespace ublk_operator {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;

std::string manifest(const std::string& name, const std::string& size = "1Gi") {
  return "apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\nmetadata:\n  name: " + name +
         "\nspec:\n  size: " + size + "\n  backend:\n    null: {}\n";
}

// --- what counts as a removal --------------------------------------------------------------------

struct RemovalCase {
  const char* what;
  FolderView view;
  SourceIdentity source;
  bool removed;
};

FolderView view_of(const std::string& identity) {
  FolderView view;
  view.readable = true;
  view.directory_identity = identity;
  return view;
}

std::vector<RemovalCase> removal_cases() {
  const SourceIdentity source{"/etc/ublk/a.yaml", "fs:1:2"};
  std::vector<RemovalCase> cases;
  const auto add = [&](const char* what, FolderView view, SourceIdentity from, bool removed) {
    cases.push_back({what, std::move(view), std::move(from), removed});
  };

  add("the file is gone from the folder it came from", view_of("fs:1:2"), source, true);

  FolderView others = view_of("fs:1:2");
  others.volumes["b"].source = {"/etc/ublk/a.yaml", "fs:1:2"};
  add("only other volumes stand in its file", others, source, true);

  FolderView other_broken = view_of("fs:1:2");
  other_broken.opaque_files = {"/etc/ublk/b.yaml"};
  add("another file is broken", other_broken, source, true);

  FolderView wanted = view_of("fs:1:2");
  wanted.volumes["a"].volume = Volume{};
  add("it is wanted", wanted, source, false);

  FolderView broken = view_of("fs:1:2");
  broken.volumes["a"].problems = {{"/etc/ublk/a.yaml", 3, 1, "spec.size", "negative"}};
  add("its document is broken", broken, source, false);

  FolderView moved = view_of("fs:1:2");
  moved.volumes["a"].source = {"/etc/ublk/z.yaml", "fs:1:2"};
  add("it stands in another file now", moved, source, false);

  FolderView opaque = view_of("fs:1:2");
  opaque.opaque_files = {"/etc/ublk/a.yaml"};
  add("its file is broken, empty or being written", opaque, source, false);

  FolderView respelt = view_of("fs:1:2");
  respelt.opaque_files = {"/srv/link-to-etc/ublk/a.yaml"};
  add("its file is broken, and the path to the folder is spelt in another way", respelt, source,
      false);

  FolderView unsettled = view_of("fs:1:2");
  unsettled.unsettled = {"a"};
  add("it has been missing for a moment only", unsettled, source, false);

  add("the folder is another one now", view_of("fs:9:9"), source, false);
  add("the folder was deleted and made again with the same inode", view_of("fs:1:3"), source,
      false);
  add("it came from no folder", view_of("fs:1:2"), {"/etc/ublk/a.yaml", ""}, false);
  add("neither folder has an identity", view_of(""), {"/etc/ublk/a.yaml", ""}, false);

  FolderView unreadable = view_of("fs:1:2");
  unreadable.readable = false;
  add("the folder cannot be read", unreadable, source, false);
  add("nothing is known", FolderView{}, source, false);
  return cases;
}

TEST(IsRemovedTest, OnlyWhatTheFolderItselfSaysIsARemoval) {
  for (const RemovalCase& c : removal_cases()) {
    VolumeRecord record;
    record.volume.metadata.name = "a";
    record.source = c.source;
    EXPECT_EQ(is_removed(record, c.view), c.removed) << c.what;
  }
}

// --- the folder ----------------------------------------------------------------------------------

class ManifestFolderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "manifest_folder_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    fs::create_directory(folder());
  }
  void TearDown() override { fs::remove_all(dir_); }

  [[nodiscard]] std::string folder() const { return dir_ + "/volumes"; }
  [[nodiscard]] std::string in_folder(const std::string& name) const {
    return folder() + "/" + name;
  }
  void put(const std::string& name, const std::string& text) const {
    const UniqueFd fd(
        ::open(in_folder(name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    ASSERT_TRUE(fd.valid());
    ASSERT_TRUE(write_all(fd.get(), text, name).ok());
  }
  [[nodiscard]] ManifestFolder open() const {
    auto opened = ManifestFolder::open(folder());
    EXPECT_TRUE(opened.ok());
    return std::move(opened).value();
  }
  // True: the folder asked for a scan within two seconds.
  static bool wakes(ManifestFolder& manifests, milliseconds within = milliseconds(2000)) {
    const auto end = std::chrono::steady_clock::now() + within;
    while (true) {
      const auto left =
          std::chrono::duration_cast<milliseconds>(end - std::chrono::steady_clock::now());
      struct pollfd readable{manifests.fd(), POLLIN, 0};
      if (left.count() <= 0 || ::poll(&readable, 1, static_cast<int>(left.count())) <= 0)
        return false;
      if (manifests.process_events()) return true;
    }
  }
  static bool quiet(ManifestFolder& manifests) { return !wakes(manifests, milliseconds(50)); }
  // Scans until `fits`, woken by the folder alone.
  static FolderView scan_until(ManifestFolder& manifests,
                               const std::map<std::string, std::string>& accepted,
                               const std::function<bool(const FolderView&)>& fits) {
    FolderView view = manifests.scan(accepted);
    for (int i = 0; i < 64 && !fits(view); ++i) {
      if (!wakes(manifests)) break;
      view = manifests.scan(accepted);
    }
    return view;
  }
  static std::map<std::string, std::string> accept(const FolderView& view) {
    std::map<std::string, std::string> accepted;
    for (const auto& [name, wanted] : view.volumes) accepted[name] = wanted.source.file;
    return accepted;
  }
  static VolumeRecord record_from(const FolderView& view, const std::string& name) {
    VolumeRecord record;
    record.volume.metadata.name = name;
    record.source = view.volumes.at(name).source;
    return record;
  }

  std::string dir_;
};

TEST_F(ManifestFolderTest, EveryManifestIsRead) {
  put("a.yaml", manifest("a"));
  put("b.yml", manifest("b") + "---\n" + manifest("c"));
  put("d.json", R"({"apiVersion":"ublk.dev/v1alpha1","kind":"UblkVolume","metadata":{"name":"d"},)"
                R"("spec":{"size":"1Gi","backend":{"null":{}}}})");
  put(".hidden.yaml", manifest("hidden"));
  put("notes.txt", "not a manifest");
  ManifestFolder manifests = open();
  const FolderView view = manifests.scan({});
  ASSERT_TRUE(view.readable) << view.unreadable_reason;
  for (const Problem& problem : view.problems) ADD_FAILURE() << problem.to_string();
  ASSERT_EQ(view.volumes.size(), 4U);
  for (const auto& [name, wanted] : view.volumes) EXPECT_TRUE(wanted.volume) << name;
  EXPECT_EQ(view.volumes.at("c").source.file, in_folder("b.yml"));
  EXPECT_EQ(view.volumes.at("c").source.directory_identity, view.directory_identity);
  EXPECT_FALSE(view.directory_identity.empty());
}

TEST_F(ManifestFolderTest, AFileThatIsWrittenWakesWhenItIsClosed) {
  ManifestFolder manifests = open();
  (void)manifests.scan({});
  ASSERT_TRUE(quiet(manifests));
  UniqueFd writer(::open(in_folder("a.yaml").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  ASSERT_TRUE(write_all(writer.get(), manifest("a").substr(0, 60), "a.yaml").ok());
  EXPECT_TRUE(quiet(manifests)) << "IN_CREATE alone is no reason";
  ASSERT_TRUE(write_all(writer.get(), manifest("a").substr(60), "a.yaml").ok());
  writer.reset();
  EXPECT_TRUE(wakes(manifests));
  const FolderView view =
      scan_until(manifests, {}, [](const FolderView& v) { return v.volumes.contains("a"); });
  EXPECT_TRUE(view.volumes.contains("a"));
}

TEST_F(ManifestFolderTest, AFileThatIsBeingWrittenIsOpaqueUntilItIsClosed) {
  put("a.yaml", manifest("a"));
  ManifestFolder manifests = open();
  const FolderView before =
      scan_until(manifests, {}, [](const FolderView& v) { return v.volumes.contains("a"); });
  ASSERT_TRUE(before.volumes.contains("a"));
  const VolumeRecord record = record_from(before, "a");

  UniqueFd writer(::open(in_folder("a.yaml").c_str(), O_WRONLY | O_TRUNC | O_CLOEXEC));
  // A valid manifest so far, yet not the one it is to become.
  ASSERT_TRUE(write_all(writer.get(), manifest("b"), "a.yaml").ok());
  const FolderView during = manifests.scan(accept(before));
  if (during.opaque_files.empty()) GTEST_SKIP() << "no leases in the file system of " << dir_;
  EXPECT_FALSE(during.volumes.contains("b"));
  EXPECT_FALSE(is_removed(record, during));

  ASSERT_TRUE(write_all(writer.get(), "---\n" + manifest("a", "2Gi"), "a.yaml").ok());
  writer.reset();
  const FolderView after = scan_until(manifests, accept(before), [](const FolderView& v) {
    return v.volumes.contains("b") && v.volumes.contains("a");
  });
  ASSERT_TRUE(after.volumes.contains("b"));
  ASSERT_TRUE(after.volumes.at("a").volume);
  EXPECT_EQ(after.volumes.at("a").volume->spec.size_bytes, uint64_t{2} << 30);
}

TEST_F(ManifestFolderTest, AFileHeldOpenForLongIsNotPolledForEver) {
  ManifestFolder manifests = open();
  const UniqueFd writer(::open(in_folder("a.yaml").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
  FolderView view = manifests.scan({});
  if (view.opaque_files.empty()) GTEST_SKIP() << "no leases in the file system of " << dir_;
  int scans = 0;
  while (scans < 100 && wakes(manifests)) {
    view = manifests.scan({});
    ++scans;
  }
  EXPECT_LT(scans, 20);
  EXPECT_EQ(view.opaque_files, std::set<std::string>{in_folder("a.yaml")});
}

// What the kernel tells the holder of a lease would end a process that is not prepared for it.
TEST_F(ManifestFolderTest, WritersAndReadersInterleaveUnharmed) {
  put("a.yaml", manifest("a"));
  ManifestFolder manifests = open();
  std::thread writer([&] {
    for (int i = 0; i < 300; ++i) put("a.yaml", manifest("a"));
  });
  for (int i = 0; i < 300; ++i) {
    const FolderView view = manifests.scan({});
    EXPECT_TRUE(view.readable);
    if (view.volumes.contains("a")) {
      EXPECT_TRUE(view.volumes.at("a").volume);
    }
  }
  writer.join();
  const FolderView view =
      scan_until(manifests, {}, [](const FolderView& v) { return v.volumes.contains("a"); });
  EXPECT_TRUE(view.volumes.contains("a"));
}

TEST_F(ManifestFolderTest, ADeletedFileIsARemovalOnceItIsSettled) {
  put("a.yaml", manifest("a"));
  ManifestFolder manifests = open();
  const FolderView before = manifests.scan({});
  const VolumeRecord record = record_from(before, "a");
  fs::remove(in_folder("a.yaml"));
  EXPECT_TRUE(wakes(manifests));
  const auto start = std::chrono::steady_clock::now();
  const FolderView at_once = manifests.scan(accept(before));
  EXPECT_FALSE(is_removed(record, at_once));
  EXPECT_EQ(at_once.unsettled, std::set<std::string>{"a"});
  const FolderView later = scan_until(manifests, accept(before),
                                      [&](const FolderView& v) { return is_removed(record, v); });
  EXPECT_TRUE(is_removed(record, later));
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(1000));
}

TEST_F(ManifestFolderTest, AnEditorThatMovesTheFileAwayFirstRemovesNothing) {
  put("a.yaml", manifest("a"));
  ManifestFolder manifests = open();
  const FolderView before = manifests.scan({});
  const VolumeRecord record = record_from(before, "a");
  fs::rename(in_folder("a.yaml"), in_folder("a.yaml~"));
  EXPECT_FALSE(is_removed(record, manifests.scan(accept(before))));
  put("a.yaml", manifest("a", "2Gi"));
  const FolderView after = scan_until(manifests, accept(before),
                                      [](const FolderView& v) { return v.volumes.contains("a"); });
  EXPECT_TRUE(after.volumes.contains("a"));
  EXPECT_TRUE(after.unsettled.empty());
  EXPECT_FALSE(is_removed(record, after));
}

TEST_F(ManifestFolderTest, ManyVolumesLeaveAFileTogether) {
  std::string text;
  for (const char* name : {"a", "b", "c", "d", "e"}) text += manifest(name) + "---\n";
  put("all.yaml", text);
  ManifestFolder manifests = open();
  const FolderView before = manifests.scan({});
  ASSERT_EQ(before.volumes.size(), 5U);
  put("all.yaml", manifest("a"));
  const auto start = std::chrono::steady_clock::now();
  const auto gone = [&](const FolderView& v) {
    return is_removed(record_from(before, "b"), v) && is_removed(record_from(before, "e"), v);
  };
  const FolderView after = scan_until(manifests, accept(before), gone);
  EXPECT_TRUE(gone(after));
  EXPECT_FALSE(is_removed(record_from(before, "a"), after));
  EXPECT_LT(std::chrono::steady_clock::now() - start, milliseconds(1000)) << "settle together";
}

TEST_F(ManifestFolderTest, ABrokenEmptyOrUnreadableFileRemovesNothing) {
  for (const std::string& text :
       {std::string("spec: [unclosed"), std::string(), std::string("\n# nothing\n"),
        std::string("metadata:\n  name: [\n"), std::string(5 << 20, '#')}) {
    put("a.yaml", manifest("a"));
    ManifestFolder manifests = open();
    const FolderView before =
        scan_until(manifests, {}, [](const FolderView& v) { return v.volumes.contains("a"); });
    ASSERT_TRUE(before.volumes.contains("a"));
    const VolumeRecord record = record_from(before, "a");
    put("a.yaml", text);
    (void)wakes(manifests);
    // Not even once it had time to settle.
    FolderView view = manifests.scan(accept(before));
    while (wakes(manifests, milliseconds(400))) view = manifests.scan(accept(before));
    view = manifests.scan(accept(before));
    EXPECT_TRUE(view.readable);
    EXPECT_TRUE(view.volumes.contains("a") || view.opaque_files.contains(in_folder("a.yaml")));
    EXPECT_FALSE(is_removed(record, view)) << text.substr(0, 40);
    EXPECT_FALSE(view.problems.empty() && view.volumes.empty()) << "it is said why";
  }
}

TEST_F(ManifestFolderTest, AnInvalidVolumeIsReportedAndTheOthersGoOn) {
  put("a.yaml", manifest("a", "-1"));
  put("b.yaml", manifest("b"));
  ManifestFolder manifests = open();
  const FolderView view = manifests.scan({});
  ASSERT_TRUE(view.volumes.contains("a"));
  EXPECT_FALSE(view.volumes.at("a").volume);
  EXPECT_FALSE(view.volumes.at("a").problems.empty());
  EXPECT_TRUE(view.volumes.at("b").volume);
}

TEST_F(ManifestFolderTest, OfTwoFilesWithOneNameTheAcceptedOneIsTaken) {
  put("a.yaml", manifest("v", "1Gi"));
  put("z.yaml", manifest("v", "2Gi"));
  ManifestFolder manifests = open();
  const FolderView fresh = manifests.scan({});
  EXPECT_EQ(fresh.volumes.at("v").source.file, in_folder("a.yaml")) << "else the first by name";
  const FolderView later = manifests.scan({{"v", in_folder("z.yaml")}});
  EXPECT_EQ(later.volumes.at("v").source.file, in_folder("z.yaml"));
  ASSERT_EQ(later.problems.size(), 1U);
  EXPECT_EQ(later.problems[0].file, in_folder("a.yaml"));
  EXPECT_EQ(later.volumes.at("v").problems.size(), 1U);
}

TEST_F(ManifestFolderTest, ANamesakeDoesNotTakeOverAVolumeWhoseFileIsBroken) {
  put("a.yaml", manifest("v", "1Gi"));
  put("z.yaml", "spec: [unclosed");
  ManifestFolder manifests = open();
  const FolderView view = manifests.scan({{"v", in_folder("z.yaml")}});
  ASSERT_TRUE(view.volumes.contains("v"));
  EXPECT_FALSE(view.volumes.at("v").volume) << "what was accepted is kept";
  EXPECT_EQ(view.volumes.at("v").source.file, in_folder("z.yaml"));
}

TEST_F(ManifestFolderTest, AVolumeMayMoveToAnotherFile) {
  put("a.yaml", manifest("v"));
  ManifestFolder manifests = open();
  const FolderView before = manifests.scan({});
  fs::rename(in_folder("a.yaml"), in_folder("b.yaml"));
  const FolderView after = manifests.scan(accept(before));
  EXPECT_EQ(after.volumes.at("v").source.file, in_folder("b.yaml"));
  EXPECT_FALSE(is_removed(record_from(before, "v"), after));
}

TEST_F(ManifestFolderTest, ADeletedFolderRemovesNothingEvenWhenItIsMadeAgain) {
  put("a.yaml", manifest("a"));
  ManifestFolder manifests = open();
  const FolderView before = manifests.scan({});
  const VolumeRecord record = record_from(before, "a");
  fs::remove_all(folder());
  const FolderView gone =
      scan_until(manifests, accept(before), [](const FolderView& v) { return !v.readable; });
  EXPECT_FALSE(gone.readable);
  EXPECT_FALSE(gone.unreadable_reason.empty());
  EXPECT_FALSE(is_removed(record, gone));

  fs::create_directory(folder());  // ext4 may give it the very same inode number
  const FolderView empty =
      scan_until(manifests, accept(before), [](const FolderView& v) { return v.readable; });
  EXPECT_TRUE(empty.readable);
  EXPECT_NE(empty.directory_identity, before.directory_identity);
  while (wakes(manifests, milliseconds(400))) (void)manifests.scan(accept(before));
  EXPECT_FALSE(is_removed(record, manifests.scan(accept(before))));

  put("b.yaml", manifest("b"));
  const FolderView back = scan_until(manifests, accept(before),
                                     [](const FolderView& v) { return v.volumes.contains("b"); });
  EXPECT_TRUE(back.volumes.contains("b")) << "the new folder is watched";
}

TEST_F(ManifestFolderTest, AFolderMovedAwayAndBackRemovesNothing) {
  put("a.yaml", manifest("a"));
  ManifestFolder manifests = open();
  const FolderView before = manifests.scan({});
  fs::rename(folder(), dir_ + "/elsewhere");
  const FolderView gone =
      scan_until(manifests, accept(before), [](const FolderView& v) { return !v.readable; });
  EXPECT_FALSE(is_removed(record_from(before, "a"), gone));
  fs::rename(dir_ + "/elsewhere", folder());
  const FolderView back =
      scan_until(manifests, accept(before), [](const FolderView& v) { return v.readable; });
  EXPECT_EQ(back.directory_identity, before.directory_identity);
  EXPECT_TRUE(back.volumes.contains("a"));
}

TEST_F(ManifestFolderTest, AFolderThatIsNotThereYetIsWaitedFor) {
  auto opened = ManifestFolder::open(dir_ + "/one/two/three/");
  ASSERT_TRUE(opened.ok());
  ManifestFolder manifests = std::move(opened).value();
  EXPECT_FALSE(manifests.scan({}).readable);
  fs::create_directories(dir_ + "/one/two/three");
  const FolderView view = scan_until(manifests, {}, [](const FolderView& v) { return v.readable; });
  EXPECT_TRUE(view.readable);
}

TEST_F(ManifestFolderTest, AFileSystemMountedOverTheFolderAndUnmountedRemovesNothing) {
  put("under.yaml", manifest("under"));
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::unshare(CLONE_NEWNS) < 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0)
      ::_exit(77);
    // Opened in here: the mount table that is watched is this one's.
    ManifestFolder manifests = open();
    const FolderView under = manifests.scan({});
    if (!under.volumes.contains("under")) ::_exit(1);
    if (::mount("tmpfs", folder().c_str(), "tmpfs", 0, nullptr) < 0) ::_exit(77);
    const FolderView over = scan_until(manifests, accept(under), [&](const FolderView& v) {
      return v.directory_identity != under.directory_identity;
    });
    if (!over.readable || over.directory_identity == under.directory_identity) ::_exit(2);
    if (is_removed(record_from(under, "under"), over)) ::_exit(3);
    put("over.yaml", manifest("over"));
    const FolderView filled = scan_until(
        manifests, accept(under), [](const FolderView& v) { return v.volumes.contains("over"); });
    if (!filled.volumes.contains("over")) ::_exit(4);
    if (::umount2(folder().c_str(), MNT_DETACH) < 0) ::_exit(5);
    const FolderView back = scan_until(manifests, accept(filled), [&](const FolderView& v) {
      return v.directory_identity == under.directory_identity;
    });
    if (!back.volumes.contains("under")) ::_exit(6);
    if (is_removed(record_from(filled, "over"), back)) ::_exit(7);
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) GTEST_SKIP() << "needs root for a private mount namespace";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST_F(ManifestFolderTest, AConfigMapsSwapIsNoticed) {
  for (const char* version : {"..1", "..2"}) fs::create_directory(in_folder(version));
  put("..1/a.yaml", manifest("a", "1Gi"));
  put("..2/a.yaml", manifest("a", "2Gi"));
  fs::create_symlink("..1", in_folder("..data"));
  fs::create_symlink("..data/a.yaml", in_folder("a.yaml"));
  ManifestFolder manifests = open();
  const FolderView before = manifests.scan({});
  ASSERT_TRUE(before.volumes.contains("a"));
  ASSERT_TRUE(before.volumes.at("a").volume);
  fs::create_symlink("..2", in_folder("..data_tmp"));
  fs::rename(in_folder("..data_tmp"), in_folder("..data"));
  const FolderView after = scan_until(manifests, accept(before), [](const FolderView& v) {
    return v.volumes.contains("a") && v.volumes.at("a").volume &&
           v.volumes.at("a").volume->spec.size_bytes == uint64_t{2} << 30;
  });
  EXPECT_EQ(after.volumes.at("a").volume->spec.size_bytes, uint64_t{2} << 30);
}

TEST_F(ManifestFolderTest, ALinkedManifestWakes) {
  ManifestFolder manifests = open();
  (void)manifests.scan({});
  ASSERT_TRUE(write_file_atomically(dir_ + "/outside.yaml", manifest("a")).ok());
  fs::create_symlink(dir_ + "/outside.yaml", in_folder("a.yaml"));
  EXPECT_TRUE(wakes(manifests)) << "a symbolic link is never closed";
  EXPECT_TRUE(manifests.scan({}).volumes.contains("a"));
}

TEST_F(ManifestFolderTest, ManyEventsAtOnceAreNotLost) {
  ManifestFolder manifests = open();
  (void)manifests.scan({});
  // More than fs.inotify.max_queued_events (16384): the queue overflows.
  for (int i = 0; i < 6000; ++i) {
    put("x.yaml", "");
    fs::remove(in_folder("x.yaml"));
  }
  put("a.yaml", manifest("a"));
  EXPECT_TRUE(wakes(manifests));
  const FolderView view =
      scan_until(manifests, {}, [](const FolderView& v) { return v.volumes.contains("a"); });
  EXPECT_TRUE(view.volumes.contains("a"));
}

// --- writing for the local API -------------------------------------------------------------------

TEST_F(ManifestFolderTest, ANewManifestIsWrittenUnderItsName) {
  ManifestFolder manifests = open();
  (void)manifests.scan({});
  const auto written = manifests.write_manifest("a", manifest("a"), std::nullopt);
  ASSERT_TRUE(written.ok()) << written.error().to_string();
  EXPECT_EQ(read_file(in_folder("a.yaml"), 1000).value(), manifest("a"));
  EXPECT_TRUE(wakes(manifests));
  EXPECT_TRUE(manifests.scan({}).volumes.contains("a"));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder()), fs::directory_iterator()), 1);
}

TEST_F(ManifestFolderTest, AnExistingManifestIsReplacedWhereItStands) {
  put("mine.yaml", manifest("a"));
  ASSERT_EQ(::chmod(in_folder("mine.yaml").c_str(), 0600), 0);
  ManifestFolder manifests = open();
  for (const auto& accepted :
       {std::optional<std::string>(in_folder("mine.yaml")), std::optional<std::string>()}) {
    ASSERT_TRUE(manifests.write_manifest("a", manifest("a", "2Gi"), accepted).ok());
    EXPECT_EQ(read_file(in_folder("mine.yaml"), 1000).value(), manifest("a", "2Gi"));
    EXPECT_FALSE(fs::exists(in_folder("a.yaml")));
  }
  EXPECT_EQ(fs::status(in_folder("mine.yaml")).permissions(),
            fs::perms::owner_read | fs::perms::owner_write);
}

TEST_F(ManifestFolderTest, WhatOthersStandInIsNotReplaced) {
  const std::string both = manifest("a") + "---\n" + manifest("b");
  put("both.yaml", both);
  put("c.yaml", manifest("other"));
  put("d.yaml", "spec: [unclosed");
  ASSERT_TRUE(write_file_atomically(dir_ + "/outside.yaml", manifest("e")).ok());
  fs::create_symlink(dir_ + "/outside.yaml", in_folder("e.yaml"));
  ManifestFolder manifests = open();
  const struct {
    const char* name;
    const char* file;
  } cases[] = {{"a", "both.yaml"}, {"c", "c.yaml"}, {"d", "d.yaml"}, {"e", "e.yaml"}};
  for (const auto& [name, file] : cases) {
    const auto before = read_file(in_folder(file), 1000).value();
    const auto written = manifests.write_manifest(name, manifest(name, "2Gi"), std::nullopt);
    ASSERT_EQ(written.err(), EEXIST) << name;
    EXPECT_EQ(written.error().object, in_folder(file));
    EXPECT_EQ(read_file(in_folder(file), 1000).value(), before);
  }
}

TEST_F(ManifestFolderTest, RemovingTakesTheFileOfThisVolumeAlone) {
  put("a.yaml", manifest("a"));
  put("both.yaml", manifest("b") + "---\n" + manifest("c"));
  put("broken.yaml", "spec: [unclosed");
  ManifestFolder manifests = open();
  EXPECT_TRUE(manifests.remove_manifest("a", in_folder("a.yaml")).ok());
  EXPECT_FALSE(fs::exists(in_folder("a.yaml")));
  EXPECT_TRUE(manifests.remove_manifest("a", in_folder("a.yaml")).ok()) << "gone is fine";
  EXPECT_EQ(manifests.remove_manifest("b", in_folder("both.yaml")).err(), EEXIST);
  EXPECT_EQ(manifests.remove_manifest("d", in_folder("broken.yaml")).err(), EEXIST);
  EXPECT_TRUE(manifests.remove_manifest("z", in_folder("both.yaml")).ok()) << "not in it";
  EXPECT_TRUE(fs::exists(in_folder("both.yaml")));
  EXPECT_TRUE(fs::exists(in_folder("broken.yaml")));
}

TEST_F(ManifestFolderTest, AMissingFolderIsNotMadeForAManifest) {
  fs::remove(folder());
  ManifestFolder manifests = open();
  EXPECT_EQ(manifests.write_manifest("a", manifest("a"), std::nullopt).err(), ENOENT);
  EXPECT_FALSE(fs::exists(folder()));
}

}  // namespace
}  // namespace ublk_operator

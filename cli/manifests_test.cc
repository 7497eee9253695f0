// apply and delete: what becomes of good, bad, several and no manifests.
#include "cli/manifests.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/test_support.h"

namespace ublk_operator {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string manifest(const std::string& name) {
  return "apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\nmetadata:\n  name: " + name +
         "\nspec:\n  size: 1Gi\n  backend:\n    \"null\": {}\n";
}

class ManifestsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "manifests.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string write(const std::string& name, const std::string& text) {
    const std::string path = dir_ + "/" + name;
    std::ofstream(path) << text;
    return path;
  }
  Outcome run(const std::vector<std::string>& arguments, const std::string& input = {}) {
    return run_on(service_, arguments, input);
  }
  std::string dir_;
  FakeVolumeService service_;
};

TEST_F(ManifestsTest, ApplySendsTheTextAsItIsWritten) {
  const std::string text = "# mine\n" + manifest("a") + "---\n" + manifest("b");
  const Outcome done = run({"apply", "-f", write("v.yaml", text)});
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_EQ(done.out, "volume/a applied\nvolume/b applied\n");
  EXPECT_EQ(service_.last_manifest(), text);
}

TEST_F(ManifestsTest, ApplyReadsStandardInput) {
  EXPECT_EQ(run({"apply", "-f", "-"}, manifest("a")).out, "volume/a applied\n");
}

TEST_F(ManifestsTest, ApplyTakesTheManifestsOfAFolderInOrderAndNothingElse) {
  write("2.yml", manifest("b"));
  write("1.yaml", manifest("a"));
  write("notes.txt", "not: [yaml");
  write(".3.yaml.swp", "not: [yaml");
  write(".hidden.yaml", "not: [yaml");
  EXPECT_EQ(run({"apply", "-f", dir_}).out, "volume/a applied\nvolume/b applied\n");
}

TEST_F(ManifestsTest, AProblemIsShownWithItsPlaceAndNothingIsApplied) {
  const std::string good = write("good.yaml", manifest("a"));
  const std::string bad = write("bad.yaml",
                                "apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\nmetadata:\n  "
                                "name: b\nspec:\n  sise: 1Gi\n");
  const Outcome refused = run({"apply", "-f", good, "-f", bad});
  EXPECT_EQ(refused.code, 2);
  EXPECT_EQ(refused.out, "");
  EXPECT_THAT(refused.err, HasSubstr(bad + ":6:"));
  EXPECT_THAT(refused.err, HasSubstr("nothing was changed"));
  EXPECT_THAT(service_.calls(), ElementsAre());
}

TEST_F(ManifestsTest, OneNameInTwoFilesIsAProblem) {
  const std::string first = write("1.yaml", manifest("a"));
  const std::string second = write("2.yaml", manifest("a"));
  const Outcome refused = run({"apply", "-f", dir_});
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr(second + ":1:1: metadata.name: 'a' is also in " + first));
}

TEST_F(ManifestsTest, AFileThatIsMissingOrEmptyIsAWrongArgument) {
  const Outcome missing = run({"apply", "-f", dir_ + "/nosuch.yaml"});
  EXPECT_EQ(missing.code, 2);
  EXPECT_THAT(missing.err, HasSubstr("nosuch.yaml"));
  EXPECT_THAT(missing.err, HasSubstr("ENOENT"));
  EXPECT_EQ(run({"apply", "-f", "-"}, "# nothing\n").code, 2);
  EXPECT_EQ(run({"apply", "-f", dir_}).code, 2);
  EXPECT_EQ(run({"apply"}).code, 2);
}

TEST_F(ManifestsTest, DryRunChecksAndAsksTheAgentNothing) {
  const Outcome done = run({"apply", "--dry-run", "-f", "-"}, manifest("a"));
  EXPECT_EQ(done.code, 0);
  EXPECT_EQ(done.out, "volume/a valid (dry run)\n");
  EXPECT_THAT(service_.calls(), ElementsAre());
}

TEST_F(ManifestsTest, WhatTheAgentRefusesNamesTheFile) {
  service_.fail("apply", Error{EROFS, "apply", "manifest", "volumes come from the cluster here"});
  const Outcome refused = run({"apply", "-f", write("v.yaml", manifest("a"))});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("v.yaml"));
  EXPECT_THAT(refused.err, HasSubstr("volumes come from the cluster here"));
}

TEST_F(ManifestsTest, DeleteTakesNamesOrManifests) {
  service_.put(pgdata());
  EXPECT_EQ(run({"delete", "pgdata"}).out, "volume/pgdata deletion requested\n");
  run({"apply", "-f", "-"}, manifest("a"));
  EXPECT_EQ(run({"delete", "-f", "-"}, manifest("a")).out, "volume/a deletion requested\n");
  EXPECT_EQ(run({"delete"}).code, 2);
}

TEST_F(ManifestsTest, DeleteOfWhatIsNotThereIsNotFoundUnlessIgnored) {
  EXPECT_EQ(run({"delete", "nosuch"}).code, 3);
  const Outcome ignored = run({"delete", "nosuch", "--ignore-not-found"});
  EXPECT_EQ(ignored.code, 0);
  EXPECT_EQ(ignored.err, "");
}

TEST_F(ManifestsTest, DeleteWaitEndsWhenTheVolumeIsGoneOrSaysWhatHoldsIt) {
  service_.put(pgdata());
  service_.set_in_use("pgdata", true);
  const Outcome held = run({"delete", "pgdata", "--wait", "--timeout", "20ms"});
  EXPECT_EQ(held.code, 4);
  EXPECT_THAT(held.err, HasSubstr("InUse is True"));
  EXPECT_THAT(held.out, Not(HasSubstr("deleted")));

  service_.set_in_use("pgdata", false);
  const Outcome gone = run({"delete", "pgdata", "--wait"});
  EXPECT_EQ(gone.code, 0);
  EXPECT_EQ(gone.out, "volume/pgdata deleted\n");
}

}  // namespace
}  // namespace ublk_operator

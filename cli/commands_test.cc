// The commands that change something, those that collect, and the command line itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cli/local_facts.h"
#include "cli/test_support.h"

namespace ublk_operator {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

class CommandsTest : public ::testing::Test {
 protected:
  void SetUp() override { service_.put(pgdata()); }
  Outcome run(const std::vector<std::string>& arguments,
              const std::vector<PreflightCheck>& checks = {}) {
    return run_on(service_, arguments, "", checks);
  }
  FakeVolumeService service_;
};

// ---- stop, start, recover, pause, resume ----

TEST_F(CommandsTest, EachChangeIsOneRequestAndOneLine) {
  EXPECT_EQ(run({"stop", "pgdata"}).out, "volume/pgdata stopped\n");
  EXPECT_EQ(run({"start", "pgdata"}).out, "volume/pgdata started\n");
  EXPECT_EQ(run({"recover", "pgdata"}).out, "volume/pgdata recovery requested\n");
  EXPECT_EQ(run({"recover", "pgdata", "--replace-server"}).code, 0);
  EXPECT_EQ(run({"pause", "pgdata"}).out, "volume/pgdata paused\n");
  EXPECT_EQ(run({"resume", "pgdata"}).out, "volume/pgdata resumed\n");
  EXPECT_THAT(
      service_.calls(),
      ElementsAre("stop pgdata stopped=true force=false", "stop pgdata stopped=false force=false",
                  "recover pgdata replace_server=false", "recover pgdata replace_server=true",
                  "pause pgdata paused=true", "pause pgdata paused=false"));
}

TEST_F(CommandsTest, StopOfAVolumeInUseIsRefusedUnlessForced) {
  service_.set_in_use("pgdata", true);
  const Outcome refused = run({"stop", "pgdata"});
  EXPECT_EQ(refused.code, 5);
  EXPECT_EQ(refused.out, "");
  EXPECT_THAT(refused.err, HasSubstr("EBUSY stop volume pgdata: the device is open by mount"));
  EXPECT_THAT(refused.err, HasSubstr("--force"));
  EXPECT_EQ(run({"stop", "pgdata", "--force"}).code, 0);
  EXPECT_THAT(service_.calls(), Contains("stop pgdata stopped=true force=true"));
}

TEST_F(CommandsTest, OneUnknownNameDoesNotKeepTheOthersFromTheirTurn) {
  const Outcome mixed = run({"pause", "nosuch", "pgdata"});
  EXPECT_EQ(mixed.code, 3);
  EXPECT_EQ(mixed.out, "volume/pgdata paused\n");
}

TEST_F(CommandsTest, WhatOnlyRootMayDoIsAFailure) {
  service_.fail("pause", Error{EPERM, "pause", "local API", "only root may do this; use sudo"});
  EXPECT_EQ(run({"pause", "pgdata"}).code, 1);
}

// ---- the command line ----

TEST_F(CommandsTest, HelpListsCommandsAndExitCodes) {
  const Outcome help = run({"--help"});
  EXPECT_EQ(help.code, 0);
  for (const char* word :
       {"get", "describe", "events", "wait", "apply", "delete", "stop", "start", "recover", "pause",
        "resume", "support-bundle", "preflight", "completion", "version", "--socket", "UBLK_SOCKET",
        "Exit codes:", "6  the agent cannot be reached"})
    EXPECT_THAT(help.out, HasSubstr(word));
  EXPECT_THAT(run({"wait", "--help"}).out, HasSubstr("--timeout"));
}

TEST_F(CommandsTest, WrongArgumentsAreUsageErrorsThatSayWhatToTry) {
  for (const std::vector<std::string>& wrong :
       std::vector<std::vector<std::string>>{{},
                                             {"gte"},
                                             {"get", "--nosuch"},
                                             {"get", "-o", "xml"},
                                             {"describe"},
                                             {"wait", "pgdata"},
                                             {"wait", "--for=Ready"},
                                             {"wait", "pgdata", "--for=Ready", "--timeout=30"},
                                             {"wait", "pgdata", "--for=Raedy"},
                                             {"events", "-w", "--timeout=soon"},
                                             {"completion", "tcsh"},
                                             {"version", "surplus"}}) {
    const Outcome refused = run(wrong);
    EXPECT_EQ(refused.code, 2) << ::testing::PrintToString(wrong);
    EXPECT_EQ(refused.out, "") << ::testing::PrintToString(wrong);
    EXPECT_THAT(refused.err, HasSubstr("ublkctl: ")) << ::testing::PrintToString(wrong);
  }
  EXPECT_EQ(run({"gett"}).err,
            "ublkctl: unknown command 'gett' (did you mean 'get'?)\nSee 'ublkctl --help'.\n");
}

TEST_F(CommandsTest, TheSocketComesFromTheOptionThenTheEnvironmentThenTheDefault) {
  std::string asked;
  std::istringstream in;
  std::ostringstream out;
  std::ostringstream err;
  const Environment environment{.in = in,
                                .out = out,
                                .err = err,
                                .connect =
                                    [&](const std::string& socket) {
                                      asked = socket;
                                      return std::make_unique<Lent>(service_);
                                    },
                                .preflight = [] { return std::vector<PreflightCheck>(); },
                                .local_facts = [] { return nlohmann::json(); }};
  ::unsetenv("UBLK_SOCKET");
  EXPECT_EQ(run_ublkctl({"get"}, environment), 0);
  EXPECT_EQ(asked, "/run/ublk-operator/agent.sock");
  ::setenv("UBLK_SOCKET", "/tmp/env.sock", 1);
  EXPECT_EQ(run_ublkctl({"get"}, environment), 0);
  EXPECT_EQ(asked, "/tmp/env.sock");
  EXPECT_EQ(run_ublkctl({"get", "--socket", "/tmp/option.sock"}, environment), 0);
  EXPECT_EQ(asked, "/tmp/option.sock");
  ::unsetenv("UBLK_SOCKET");
}

TEST_F(CommandsTest, VersionIsTheBuilds) {
  EXPECT_EQ(run({"version"}).out, "ublkctl " UBLK_VERSION "\n");
  EXPECT_EQ(run({"--version"}).out, "ublkctl " UBLK_VERSION "\n");
}

// ---- preflight ----

TEST_F(CommandsTest, PreflightShowsChecksThenWhatToDo) {
  const std::vector<PreflightCheck> checks{
      {"kernel", "ok", "Linux 7.2", ""},
      {"io_uring", "failed", "io_uring is disabled", "sysctl kernel.io_uring_disabled=0"}};
  const Outcome shown = run({"preflight"}, checks);
  EXPECT_EQ(shown.code, 1);
  EXPECT_EQ(shown.out,
            "CHECK      STATUS   WHAT\n"
            "kernel     ok       Linux 7.2\n"
            "io_uring   failed   io_uring is disabled\n"
            "\n"
            "What to do:\n"
            "  io_uring: sysctl kernel.io_uring_disabled=0\n");
  EXPECT_EQ(run({"preflight"}, {{"kernel", "ok", "Linux 7.2", ""}}).code, 0);
  const auto json = nlohmann::json::parse(run({"preflight", "-o", "json"}, checks).out);
  EXPECT_EQ(json.at(1).at("remedy"), "sysctl kernel.io_uring_disabled=0");
  EXPECT_THAT(service_.calls(), ElementsAre());
}

// ---- support-bundle ----

TEST_F(CommandsTest, TheBundleHoldsAgentAndHostButNoSecrets) {
  service_.set_bundle({{"volumes", nlohmann::json::array({1})},
                       {"config", {{"apiToken", "hunter2"}, {"plain", "kept"}}}});
  const Outcome made = run({"support-bundle"});
  EXPECT_EQ(made.code, 0);
  const auto bundle = nlohmann::json::parse(made.out);
  EXPECT_EQ(bundle.at("kind"), "UblkSupportBundle");
  EXPECT_EQ(bundle.at("host").at("uname"), "Linux");
  EXPECT_EQ(bundle.at("agent").at("config").at("plain"), "kept");
  EXPECT_THAT(made.out, Not(HasSubstr("hunter2")));
}

TEST_F(CommandsTest, TheBundleGoesIntoAFileThatOnlyItsOwnerReads) {
  std::string dir = ::testing::TempDir() + "bundle.XXXXXX";
  ASSERT_NE(::mkdtemp(dir.data()), nullptr);
  const std::string path = dir + "/bundle.json";
  EXPECT_EQ(run({"support-bundle", "-o", path}).code, 0);
  struct stat found{};
  ASSERT_EQ(::stat(path.c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 0777, 0600U);
  std::ifstream file(path);
  EXPECT_EQ(nlohmann::json::parse(file).at("kind"), "UblkSupportBundle");
  EXPECT_EQ(run({"support-bundle", "-o", dir + "/nosuch/bundle.json"}).code, 1);
  EXPECT_EQ(run({"support-bundle", "-o", dir + "/bundle.tar.gz"}).code, 2);
  std::filesystem::remove_all(dir);
}

TEST(LocalFactsTest, OfTheKernelLogOnlyTheLastLinesAboutUblkAreTaken) {
  const std::string log =
      "<6>[    1.0] usb 1-1: new device\n<6>[    2.0] ublk: ublkb0 added\n<4>[    3.0] ublkb0: "
      "p1\n<6>[    4.0] ublkb0: gone\n";
  EXPECT_EQ(ublk_lines(log, 2), (nlohmann::json{"[    3.0] ublkb0: p1", "[    4.0] ublkb0: gone"}));
}

TEST(LocalFactsTest, WhatCannotBeReadSaysSoInItsPlace) {
  const auto facts = local_facts({{"kernel", "ok", "Linux 7.2", ""}});
  EXPECT_TRUE(facts.at("uname").contains("release"));
  EXPECT_TRUE(facts.at("ublkChar").is_array() || facts.at("ublkChar").contains("error"));
  EXPECT_TRUE(facts.at("dmesg").is_array() || facts.at("dmesg").contains("error"));
  EXPECT_EQ(facts.at("preflight").at(0).at("name"), "kernel");
}

}  // namespace
}  // namespace ublk_operator

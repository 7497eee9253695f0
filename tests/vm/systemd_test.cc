// One host under systemd, as docs/systemd.md describes it: the units as they are installed, the
// fstab line of the docs, and two days with a power-off in between. Run by the stage "systemd" of
// `./dev test` in two boots of one disk:
//   systemd_test --gtest_filter=FirstDay.* then power-off, systemd_test --gtest_filter=SecondDay.*
// The first day ends with mounted file systems, a writer and a server that has just been killed;
// that the machine goes down all the same is for the stage to see.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <regex>
#include <sstream>
#include <string>

#include "tests/vm/lab_node.h"

namespace ublk_operator::lab {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr const char* sums = "/var/lib/systemd_test.sums";  // of the first day's files

// What a command said, with its exit status if that is not 0: EXPECT_EQ(run("true"), "").
std::string run(const std::string& command) {
  std::string output = shell_output("{ " + command + "; } 2>&1; echo \"status $?\"");
  const std::string good = "status 0\n";
  if (output.ends_with(good)) output.resize(output.size() - good.size());
  return output;
}

std::string journal() {
  return run("journalctl -b -u ublk-spawner -u ublk-node --no-pager -o cat | tail -n 40");
}

std::string servers() { return run("pgrep -x ublk-server | sort | xargs"); }

void apply(const std::string& name) {
  std::ofstream("/tmp/" + name + ".yaml") << manifest({.name = name, .size = "64Mi"});
  ASSERT_EQ(run("mv /tmp/" + name + ".yaml /etc/ublk/volumes/"), "");
}

bool ready(const std::string& name) {
  return shell("ublkctl wait " + name + " --for=Ready --timeout 60s") == 0;
}

bool under_systemd() { return fs::is_directory("/run/systemd/system"); }

// The line a user copies from the docs.
std::string documented_fstab_line() {
  std::ifstream docs(UBLK_SYSTEMD_DOCS);
  for (std::string line; std::getline(docs, line);)
    if (line.starts_with("/dev/ublk/by-name/pgdata ")) return line;
  return "";
}

class FirstDay : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!under_systemd()) GTEST_SKIP() << "systemd does not run here: see the stage \"systemd\"";
  }
};

TEST_F(FirstDay, TheInstalledUnitsMakeManifestsReal) {
  ASSERT_EQ(run("systemctl daemon-reload && udevadm control --reload"), "");
  ASSERT_EQ(run("systemctl -q enable --now ublk-spawner.service ublk-node.service"), "")
      << journal();
  apply("pgdata");
  apply("hand");
  ASSERT_TRUE(ready("pgdata")) << journal();
  ASSERT_TRUE(ready("hand")) << journal();
}

TEST_F(FirstDay, AByNamePathIsADeviceUnitThatOthersCanWaitFor) {
  ASSERT_EQ(run("udevadm settle --timeout=60"), "");
  EXPECT_EQ(run("systemctl is-active 'dev-ublk-by\\x2dname-pgdata.device'"), "active\n")
      << run("udevadm info /dev/ublk/by-name/pgdata");
}

TEST_F(FirstDay, TheFstabLineOfTheDocsMountsAVolume) {
  const std::string line = documented_fstab_line();
  ASSERT_NE(line, "") << "no such line in " << UBLK_SYSTEMD_DOCS;
  ASSERT_EQ(run("mkfs.ext4 -q /dev/ublk/by-name/pgdata && mkdir -p /srv/pgdata"), "");
  ASSERT_EQ(run("echo '" + line + "' >>/etc/fstab && systemctl daemon-reload"), "");
  ASSERT_EQ(run("systemctl start srv-pgdata.mount"), "");
  ASSERT_EQ(run("mkfs.ext4 -q /dev/ublk/by-name/hand && mkdir -p /mnt/hand && "
                "mount /dev/ublk/by-name/hand /mnt/hand"),
            "");
  ASSERT_EQ(run("for d in /srv/pgdata /mnt/hand; do head -c 8M /dev/urandom >$d/data; done; "
                "sha256sum /srv/pgdata/data /mnt/hand/data >" +
                std::string(sums) + " && sync"),
            "");
}

TEST_F(FirstDay, ARestartOfTheAgentTouchesNeitherServersNorMounts) {
  const std::string before = servers();
  ASSERT_THAT(before, HasSubstr(" ")) << "two servers";
  ASSERT_EQ(run("systemctl restart ublk-node"), "");
  ASSERT_TRUE(ready("pgdata")) << journal();
  EXPECT_EQ(servers(), before);
  EXPECT_EQ(run("findmnt -n -o TARGET /srv/pgdata && findmnt -n -o TARGET /mnt/hand"),
            "/srv/pgdata\n/mnt/hand\n");
}

TEST_F(FirstDay, ARestartOfTheSpawnerIsACrashOfEveryServerThatAWriterLivesThrough) {
  const std::string before = servers();
  ASSERT_EQ(run("dd if=/dev/urandom of=/mnt/hand/dd bs=256k count=40 oflag=dsync status=none & "
                "writer=$!; systemctl restart ublk-spawner; wait $writer"),
            "");
  ASSERT_TRUE(ready("hand")) << journal();
  ASSERT_TRUE(ready("pgdata")) << journal();
  EXPECT_NE(servers(), before);
  EXPECT_EQ(run("sha256sum --quiet -c " + std::string(sums)), "");
}

class SecondDay : public FirstDay {};

TEST_F(SecondDay, TheFstabMountIsThereAfterTheBoot) {
  // With nofail nothing else waits for it, so the boot may still be busy with it.
  (void)run("systemctl is-system-running --wait");
  EXPECT_EQ(run("systemctl is-active srv-pgdata.mount"), "active\n")
      << run("systemctl status srv-pgdata.mount 'dev-ublk-by\\x2dname-pgdata.device'") << journal();
  EXPECT_EQ(run("findmnt -n -o SOURCE /srv/pgdata"), run("readlink -f /dev/ublk/by-name/pgdata"));
}

TEST_F(SecondDay, TheFileSystemsHadBeenUnmountedBeforeTheirServersEnded) {
  ASSERT_TRUE(ready("hand")) << journal();
  ASSERT_EQ(run("mount /dev/ublk/by-name/hand /mnt/hand"), "");
  // ext4 says so when it finds a file system that was not unmounted.
  EXPECT_THAT(run("dmesg | grep -E 'EXT4-fs .ublkb' || true"), Not(HasSubstr("recover")));
  EXPECT_EQ(run("sha256sum --quiet -c " + std::string(sums)), "");
}

TEST_F(SecondDay, ADeviceUnitStaysWhileAServerIsReplaced) {
  const std::string before = run("ublkctl get pgdata -o json | jq .status.serverPID");
  ASSERT_EQ(run("kill -KILL $(ublkctl get pgdata -o json | jq .status.serverPID)"), "");
  ASSERT_EQ(run("head -c 4M /dev/urandom >/srv/pgdata/more && sync -f /srv/pgdata/more"), "");
  EXPECT_NE(run("ublkctl get pgdata -o json | jq .status.serverPID"), before);
  EXPECT_EQ(run("systemctl is-active srv-pgdata.mount"), "active\n");
}

}  // namespace
}  // namespace ublk_operator::lab

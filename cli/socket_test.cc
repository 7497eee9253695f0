// ublkctl against a real local API server in this process: what a script sees.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <mutex>
#include <sstream>
#include <thread>

#include "cli/commands.h"
#include "cli/test_support.h"
#include "common/localapi/client.h"
#include "common/localapi/server.h"

namespace ublk_operator {
namespace {

using ::testing::HasSubstr;

class SocketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "ublkctl.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    options_.path = dir_ + "/agent.sock";
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(dir_);
  }
  void start() {
    auto server = LocalApiServer::start(service_, options_, null_logger());
    ASSERT_TRUE(server.ok()) << server.error().to_string();
    server_ = std::move(*server);
  }
  Outcome run(const std::vector<std::string>& arguments, const std::string& input = {}) {
    LocalApiClient client(options_.path);
    return run_on(client, arguments, input);
  }
  std::future<Outcome> run_meanwhile(const std::vector<std::string>& arguments) {
    return std::async(std::launch::async, [this, arguments] { return run(arguments); });
  }
  // Until `count` watches reached the agent.
  void wait_for_watchers(size_t count) {
    while (service_.watchers() < count) std::this_thread::yield();
  }
  // Until the agent got this call: what the command did before it has been answered.
  void wait_for_call(const std::string& call) {
    const auto made = [&] {
      const std::vector<std::string> calls = service_.calls();
      return std::find(calls.begin(), calls.end(), call) != calls.end();
    };
    while (!made()) std::this_thread::yield();
  }

  std::string dir_;
  LocalApiServer::Options options_;
  FakeVolumeService service_;
  std::unique_ptr<LocalApiServer> server_;
};

TEST_F(SocketTest, WithoutAnAgentEveryCommandThatNeedsItExitsWith6AndSaysWhatToDo) {
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"get"},
                                             {"get", "a", "b"},
                                             {"describe", "a", "b"},
                                             {"events"},
                                             {"events", "-w"},
                                             {"wait", "a", "--for=Ready"},
                                             {"wait", "--all", "--for=Ready"},
                                             {"delete", "a"},
                                             {"stop", "a"},
                                             {"start", "a"},
                                             {"recover", "a"},
                                             {"pause", "a"},
                                             {"resume", "a"}}) {
    const Outcome lost = run(command);
    EXPECT_EQ(lost.code, 6) << ::testing::PrintToString(command);
    EXPECT_EQ(lost.out.find("volume/"), std::string::npos);
    EXPECT_THAT(lost.err, HasSubstr(options_.path)) << ::testing::PrintToString(command);
    EXPECT_THAT(lost.err, HasSubstr("systemctl start ublk-node"));
    EXPECT_EQ(std::count(lost.err.begin(), lost.err.end(), '\n'), 1) << lost.err;
  }
}

TEST_F(SocketTest, TheSupportBundleIsMadeWithoutAnAgentToo) {
  const Outcome made = run({"support-bundle"});
  EXPECT_EQ(made.code, 0);
  const auto bundle = nlohmann::json::parse(made.out);
  EXPECT_THAT(bundle.at("agent").at("error").get<std::string>(), HasSubstr("ENOTCONN"));
  EXPECT_TRUE(bundle.contains("host"));
}

TEST_F(SocketTest, ErrorsOfTheAgentBecomeExitCodes) {
  start();
  service_.put(pgdata());
  service_.set_in_use("pgdata", true);
  EXPECT_EQ(run({"get", "pgdata"}).code, 0);
  EXPECT_EQ(run({"get", "nosuch"}).code, 3);
  EXPECT_EQ(run({"stop", "pgdata"}).code, 5);
  service_.fail("recover", Error{EIO, "recover", "volume pgdata", "the backend is gone"});
  EXPECT_EQ(run({"recover", "pgdata"}).code, 1);
  service_.fail("apply", Error{EINVAL, "apply", "volume pgdata", "shrinking is refused"});
  EXPECT_EQ(run({"apply", "-f", "-"},
                "apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\nmetadata: {name: a}\n"
                "spec: {size: 1Gi, backend: {\"null\": {}}}\n")
                .code,
            2);
}

TEST_F(SocketTest, WhoIsNotRootReadsButDoesNotChange) {
  options_.may_change = [](uid_t) { return false; };
  start();
  service_.put(pgdata());
  EXPECT_EQ(run({"get"}).code, 0);
  EXPECT_EQ(run({"describe", "pgdata"}).code, 0);
  const Outcome refused = run({"stop", "pgdata", "--force"});
  EXPECT_EQ(refused.code, 1);
  EXPECT_THAT(refused.err, HasSubstr("sudo"));
}

// ---- wait ----

TEST_F(SocketTest, WaitEndsAtOnceWhenItIsSoAlready) {
  start();
  service_.put(pgdata());
  const Outcome met = run({"wait", "pgdata", "--for=Ready", "--timeout", "0s"});
  EXPECT_EQ(met.code, 0);
  EXPECT_EQ(met.out, "volume/pgdata condition met\n");
}

TEST_F(SocketTest, WaitEndsWhenItComesTrue) {
  start();
  Volume volume = pgdata();
  volume.status.state = "QUIESCED";
  service_.put(volume);
  auto waiting = run_meanwhile({"wait", "pgdata", "--for=state=LIVE"});
  wait_for_watchers(1);
  service_.change("pgdata", [](Volume& edited) { edited.status.state = "LIVE"; });
  EXPECT_EQ(waiting.get().code, 0);
}

TEST_F(SocketTest, WaitIsPatientWithAVolumeThatIsYetToCome) {
  start();
  auto waiting = run_meanwhile({"wait", "pgdata", "--for=Ready"});
  wait_for_watchers(1);
  service_.put(pgdata());
  EXPECT_EQ(waiting.get().code, 0);
}

TEST_F(SocketTest, WaitForDeleteEndsWhenTheVolumeIsGone) {
  start();
  service_.put(pgdata());
  auto waiting = run_meanwhile({"wait", "pgdata", "--for=delete"});
  wait_for_watchers(1);
  service_.erase("pgdata");
  const Outcome gone = waiting.get();
  EXPECT_EQ(gone.code, 0);
  EXPECT_EQ(gone.out, "volume/pgdata deleted\n");
}

TEST_F(SocketTest, WaitThatTimesOutExitsWith4AndSaysHowItIs) {
  start();
  service_.put(scratch());
  const Outcome late = run({"wait", "scratch", "--for=Ready", "--timeout=20ms"});
  EXPECT_EQ(late.code, 4);
  EXPECT_EQ(late.err,
            "ublkctl: ETIMEDOUT wait volume scratch: not Ready within 20ms: Ready is False "
            "(UnsupportedByKernel: FailIO needs Linux 6.14); see 'ublkctl describe scratch'\n");
}

TEST_F(SocketTest, WaitForAVolumeThatNeverComesExitsWith3) {
  start();
  EXPECT_EQ(run({"wait", "nosuch", "--for=Ready", "--timeout=20ms"}).code, 3);
}

TEST_F(SocketTest, WaitAllWaitsForEachOfThem) {
  start();
  service_.put(pgdata());
  service_.put(scratch());
  EXPECT_EQ(run({"wait", "--all", "--for=Ready", "--timeout=20ms"}).code, 4);
  const Outcome met = run({"wait", "--all", "--for=condition=SpecValid", "--timeout=20ms"});
  EXPECT_EQ(met.code, 4);
  service_.change("scratch", [](Volume& edited) {
    edited.status.conditions.front().status = ConditionStatus::yes;
  });
  EXPECT_EQ(run({"wait", "--all", "--for=Ready"}).out,
            "volume/pgdata condition met\nvolume/scratch condition met\n");
}

TEST_F(SocketTest, WaitOutlivesARestartOfTheAgent) {
  start();
  service_.put(scratch());
  auto waiting = run_meanwhile({"wait", "scratch", "--for=Ready"});
  wait_for_call("get scratch");  // the watch before it is answered: the agent has been reached
  server_.reset();
  service_.change("scratch", [](Volume& edited) {
    edited.status.conditions.front().status = ConditionStatus::yes;
  });
  start();
  EXPECT_EQ(waiting.get().code, 0);
}

// ---- events --watch ----

// Takes so many lines, then is broken, as a pipe into `head` is.
class LinesBuffer : public std::stringbuf {
 public:
  explicit LinesBuffer(int lines_max) : lines_left_(lines_max) {}
  // Until so many lines have been taken.
  void wait_for_lines(int count) {
    std::unique_lock lock(mutex_);
    taken_changed_.wait(lock, [&] { return taken_ >= count; });
  }

 private:
  std::streamsize xsputn(const char* text, std::streamsize size) override {
    std::streamsize put = 0;
    while (put < size && overflow(static_cast<unsigned char>(text[put])) != EOF) ++put;
    return put;
  }
  int overflow(int c) override {
    if (lines_left_ == 0) return EOF;
    if (c == '\n') {
      const std::lock_guard lock(mutex_);
      --lines_left_;
      ++taken_;
      taken_changed_.notify_all();
    }
    text_ += static_cast<char>(c);
    return c;
  }

 public:
  std::string text_;  // once the writer has ended

 private:
  int lines_left_;
  std::mutex mutex_;
  std::condition_variable taken_changed_;
  int taken_ = 0;
};

TEST_F(SocketTest, WatchedEventsAreShownOnceUntilNobodyReads) {
  start();
  service_.put(pgdata());
  const auto event = [](const std::string& reason) {
    return VolumeEvent{"pgdata", true, reason, "", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z",
                       1};
  };
  service_.add_event(event("First"));
  LinesBuffer lines(3);
  std::istringstream in;
  std::ostream out(&lines);
  std::ostringstream err;
  auto watching = std::async(std::launch::async, [&] {
    LocalApiClient client(options_.path);
    return show_events({client, in, out, err},
                       {.name = "pgdata", .output = "json", .watch = true, .timeout = ""});
  });
  lines.wait_for_lines(1);
  service_.add_event(event("Second"));
  lines.wait_for_lines(2);
  service_.change("pgdata", [](Volume&) {});  // nothing new to show
  service_.add_event(event("Third"));
  lines.wait_for_lines(3);
  service_.add_event(event("Fourth"));  // there is nobody to show it to
  EXPECT_EQ(watching.get(), ExitCode::ok);

  std::istringstream shown(lines.text_);
  std::vector<std::string> reasons;
  for (std::string line; std::getline(shown, line);)
    reasons.push_back(nlohmann::json::parse(line).at("reason"));
  EXPECT_THAT(reasons, ::testing::ElementsAre("First", "Second", "Third"));
}

TEST_F(SocketTest, WatchedEventsEndWithTheirTimeout) {
  start();
  const Outcome seen = run({"events", "--watch", "--timeout", "20ms"});
  EXPECT_EQ(seen.code, 0);
  EXPECT_THAT(seen.out, HasSubstr("LAST-SEEN"));
}

}  // namespace
}  // namespace ublk_operator

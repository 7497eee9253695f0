// The spawner, its client and real child processes (fake_server_main.cc).
#include "node/spawner/spawner.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <future>
#include <optional>
#include <set>
#include <thread>

#include "common/base/files.h"
#include "common/base/limits.h"
#include "common/base/strings.h"
#include "node/spawner/client.h"
#include "node/spawner/daemon.h"
#include "node/spawner/test_support.h"
#include "node/spawner/uid_pool.h"

namespace ublk_operator {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

// include/linux/sched.h: what PR_SET_IO_FLUSHER sets.
constexpr unsigned long pf_memalloc_noio = 0x00080000;

bool is_root() { return ::geteuid() == 0; }

// "CapEff" of /proc/PID/status.
std::string status_field(pid_t pid, const std::string& name) {
  const auto text = read_file("/proc/" + std::to_string(pid) + "/status", 1 << 16);
  if (!text) return "";
  for (const auto line : split(*text, '\n'))
    if (line.starts_with(name + ":")) return std::string(trim(line.substr(name.size() + 1)));
  return "";
}

json ask(const MessageSocket& channel, const json& question) {
  if (!channel.send(question)) return {};
  auto answer = channel.receive(patience);
  return answer ? answer->body : json();
}

std::optional<ExitNotice> next_notice(SpawnerClient& client) {
  std::optional<ExitNotice> notice;
  while (!notice && wait_readable(client.fd()))
    if (!client.process_events([&](const ExitNotice& n) { notice = n; })) break;
  return notice;
}

// A spawner in a thread of the test.
class SpawnerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    program_ = install_program(helper_program("spawner_fake_server"), directory_.path());
    options_.socket_path = directory_.path() + "/spawner.sock";
    options_.uid_lock_directory = directory_.path() + "/uids";
    options_.use_cgroups = false;  // this process is not the spawner's alone
  }
  void start() {
    auto spawner = Spawner::create(options_, null_logger());
    ASSERT_TRUE(spawner.ok()) << spawner.error().to_string();
    thread_ = std::thread(
        [this, s = std::move(spawner).value()]() mutable { ended_ = s.run(stop_->fd()); });
    client_ = connect();
    ASSERT_NE(client_, nullptr);
  }
  void TearDown() override {
    stop_->signal();
    if (thread_.joinable()) thread_.join();
    EXPECT_TRUE(ended_.ok()) << ended_.error().to_string();
  }
  [[nodiscard]] std::unique_ptr<SpawnerClient> connect() const {
    auto client = connect_spawner(options_.socket_path);
    EXPECT_TRUE(client.ok()) << client.error().to_string();
    return client ? std::move(client).value() : nullptr;
  }
  Result<SpawnedServer> spawn() { return client_->spawn({program_, 4096, 0}, patience); }

  TempDirectory directory_;
  std::string program_;
  SpawnerOptions options_;
  Result<EventFd> stop_ = EventFd::create();
  Result<void> ended_;
  std::thread thread_;
  std::unique_ptr<SpawnerClient> client_;
};

TEST_F(SpawnerTest, ASpawnedServerSaysReadyOnItsChannel) {
  start();
  auto server = spawn();
  ASSERT_TRUE(server.ok()) << server.error().to_string();
  EXPECT_GT(server->info.id, 0U);
  EXPECT_EQ(server->info.program, program_);
  EXPECT_FALSE(server->pidfd.exited());
  auto ready = server->channel.receive(patience);
  ASSERT_TRUE(ready.ok());
  EXPECT_EQ(ready->body["type"], "ready");
}

TEST_F(SpawnerTest, AServerGetsItsChannelAndNothingElse) {
  ::setenv("SPAWNER_TEST_SECRET", "token", 1);
  start();
  auto server = spawn();
  ASSERT_TRUE(server.ok()) << server.error().to_string();
  ASSERT_TRUE(server->channel.receive(patience).ok());
  const json about = ask(server->channel, {{"type", "describe"}});
  EXPECT_EQ(about["arguments"], (json{program_, "--channel", "3", "--arena", "4096"}));
  std::set<int> descriptors = about["descriptors"];
  EXPECT_EQ(descriptors, (std::set<int>{0, 1, 2, 3}));
  EXPECT_EQ(about["death_signal"], SIGKILL);
  EXPECT_EQ(about["session"], server->info.pid);
  EXPECT_EQ(about["environment"].dump().find("SPAWNER_TEST_SECRET"), std::string::npos);
}

TEST_F(SpawnerTest, AServerHasAnOwnUidAndNoPrivileges) {
  if (!is_root()) GTEST_SKIP() << "needs root: uids cannot be changed";
  start();
  auto first = spawn();
  auto second = spawn();
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_NE(first->info.uid, second->info.uid);
  for (const auto* server : {&*first, &*second}) {
    const pid_t pid = server->info.pid;
    const std::string uid = std::to_string(server->info.uid);
    EXPECT_GE(server->info.uid, options_.uid_base);
    // Real, effective, saved and file system id.
    const std::string four = join({uid, uid, uid, uid}, "\t");
    EXPECT_EQ(status_field(pid, "Uid"), four);
    EXPECT_EQ(status_field(pid, "Gid"), four);
    EXPECT_EQ(status_field(pid, "Groups"), "");
    for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
      EXPECT_EQ(status_field(pid, set), "0000000000000000") << set;
    EXPECT_EQ(status_field(pid, "NoNewPrivs"), "1");
    EXPECT_EQ(status_field(pid, "SigBlk"), "0000000000000000");
  }
}

TEST_F(SpawnerTest, EveryThreadOfAServerIsAnIoFlusher) {
  if (::prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) < 0)
    GTEST_SKIP() << "needs CAP_SYS_RESOURCE: PR_SET_IO_FLUSHER is refused here";
  start();
  auto server = spawn();
  ASSERT_TRUE(server.ok()) << server.error().to_string();
  ASSERT_TRUE(server->channel.receive(patience).ok());
  const json about = ask(server->channel, {{"type", "describe"}});
  EXPECT_NE(about["main_flags"].get<unsigned long>() & pf_memalloc_noio, 0U);
  EXPECT_NE(about["later_thread_flags"].get<unsigned long>() & pf_memalloc_noio, 0U);
  EXPECT_EQ(trim(about["oom_score_adj"].get<std::string>()), "-900");
}

TEST_F(SpawnerTest, AnotherClientAdoptsTheServersOfAnEarlierOne) {
  start();
  auto spawned = spawn();
  ASSERT_TRUE(spawned.ok());
  ASSERT_TRUE(spawned->channel.receive(patience).ok());
  client_->bind(spawned->info.id, "pgdata", 7);
  const ServerInfo info = spawned->info;
  spawned = Error{ESTALE, "", "", ""};  // the first agent dies: its descriptors are closed
  client_.reset();

  client_ = connect();
  auto servers = client_->list(patience);
  ASSERT_TRUE(servers.ok()) << servers.error().to_string();
  ASSERT_EQ(servers->size(), 1U);
  const SpawnedServer& server = servers->front();
  EXPECT_EQ(server.info.id, info.id);
  EXPECT_EQ(server.info.pid, info.pid);
  EXPECT_EQ(server.info.uid, info.uid);
  EXPECT_EQ(server.info.arena_bytes, 4096U);
  EXPECT_EQ(server.info.volume, "pgdata");
  EXPECT_EQ(server.info.generation, 7U);
  EXPECT_EQ(ask(server.channel, {{"type", "describe"}})["type"], "described");
}

TEST_F(SpawnerTest, AListOfManyServersComesInSeveralMessages) {
  start();
  std::set<uint64_t> ids;
  for (int i = 0; i < 20; ++i) {
    auto server = spawn();
    ASSERT_TRUE(server.ok()) << server.error().to_string();
    ids.insert(server->info.id);
  }
  auto servers = client_->list(patience);
  ASSERT_TRUE(servers.ok()) << servers.error().to_string();
  std::set<uint64_t> listed;
  for (const auto& server : *servers) {
    listed.insert(server.info.id);
    auto ready = server.channel.receive(patience);  // the descriptors are those of this server
    EXPECT_TRUE(ready.ok());
    EXPECT_FALSE(server.pidfd.exited());
  }
  EXPECT_EQ(listed, ids);
}

TEST_F(SpawnerTest, HowAServerEndedIsToldToEveryClient) {
  start();
  auto other = connect();
  auto killed = spawn();
  ASSERT_TRUE(killed.ok());
  ASSERT_TRUE(killed->pidfd.kill(SIGKILL));
  for (SpawnerClient* client : {client_.get(), other.get()}) {
    auto notice = next_notice(*client);
    ASSERT_TRUE(notice.has_value());
    EXPECT_EQ(notice->id, killed->info.id);
    EXPECT_EQ(notice->pid, killed->info.pid);
    EXPECT_EQ(notice->to_string(), "killed by SIGKILL (9)");
  }
  auto exiting = spawn();
  ASSERT_TRUE(exiting.ok());
  ASSERT_TRUE(exiting->channel.send({{"type", "exit"}, {"code", 5}}));
  auto notice = next_notice(*client_);
  ASSERT_TRUE(notice.has_value());
  EXPECT_EQ(notice->id, exiting->info.id);
  EXPECT_EQ(notice->to_string(), "exited with status 5");
  EXPECT_TRUE(client_->list(patience)->empty());
}

TEST_F(SpawnerTest, AFailedExecIsReportedWithItsErrno) {
  start();
  const std::string not_executable = directory_.path() + "/text";
  std::ofstream(not_executable) << "no program";
  EXPECT_EQ(client_->spawn({directory_.path() + "/missing", 0, 0}, patience).err(), ENOENT);
  EXPECT_EQ(client_->spawn({directory_.path() + "/no/folder", 0, 0}, patience).err(), ENOENT);
  EXPECT_EQ(client_->spawn({"relative", 0, 0}, patience).err(), EINVAL);
  EXPECT_EQ(client_->spawn({"/" + std::string(2000, 'x'), 0, 0}, patience).err(), EINVAL);
  auto refused = client_->spawn({not_executable, 0, 0}, patience);
  ASSERT_EQ(refused.err(), EACCES);
  if (is_root()) {
    EXPECT_NE(refused.error().to_string().find("servers run as uid"), std::string::npos)
        << refused.error().to_string();
  }
  EXPECT_TRUE(spawn().ok());
  EXPECT_EQ(client_->list(patience)->size(), 1U);
}

TEST_F(SpawnerTest, ServersOfAFolderThatOnlyRootCanReachStart) {
  if (!is_root()) GTEST_SKIP() << "needs root: uids are not changed";
  const std::string closed = directory_.path() + "/closed";
  std::filesystem::create_directories(closed + "/bin");
  const std::string program = install_program(program_, closed + "/bin");
  ::chmod((closed + "/bin").c_str(), 0755);
  ::chmod(closed.c_str(), 0700);
  start();
  auto server = client_->spawn({program, 0, 0}, patience);
  EXPECT_TRUE(server.ok()) << server.error().to_string();
}

TEST_F(SpawnerTest, UidsAreBoundedAndFreeAgainWhenTheServerIsReaped) {
  if (!is_root()) GTEST_SKIP() << "needs root: uids are not changed";
  options_.uid_count = 2;
  start();
  auto first = spawn();
  auto second = spawn();
  ASSERT_TRUE(first.ok() && second.ok());
  EXPECT_EQ(spawn().err(), EAGAIN);
  ASSERT_TRUE(first->pidfd.kill(SIGKILL));
  ASSERT_TRUE(next_notice(*client_).has_value());
  auto third = spawn();
  ASSERT_TRUE(third.ok()) << third.error().to_string();
  EXPECT_EQ(third->info.uid, first->info.uid);
}

TEST_F(SpawnerTest, ConnectionsAreBoundedAndFreeAgainWhenOneCloses) {
  start();
  std::vector<std::unique_ptr<SpawnerClient>> clients;
  while (2 * (clients.size() + 1) < limits::spawner_connections_max) clients.push_back(connect());
  const auto refused = connect_spawner(options_.socket_path);
  EXPECT_FALSE(refused.ok());
  EXPECT_TRUE(client_->list(patience).ok());
  clients.clear();
  // The spawner learns of closed connections in the order of its events; a request that comes after
  // them is answered after them.
  std::unique_ptr<SpawnerClient> next;
  for (int i = 0; i < 100 && next == nullptr; ++i) {
    ASSERT_TRUE(client_->list(patience).ok());
    if (auto client = connect_spawner(options_.socket_path)) next = std::move(client).value();
  }
  EXPECT_NE(next, nullptr);
}

TEST_F(SpawnerTest, GarbageClosesOneConnectionOnly) {
  start();
  auto bad = MessageSocket::connect(options_.socket_path);
  ASSERT_TRUE(bad.ok());
  ASSERT_TRUE(bad->send({{"type", "dance"}, {"request", 1}}));
  EXPECT_EQ(bad->receive(patience)->body["errno"], EOPNOTSUPP);
  ASSERT_TRUE(bad->send({{"type", "spawn"}, {"program", 7}}));
  EXPECT_EQ(bad->receive(patience)->body["errno"], EPROTO);
  ASSERT_TRUE(bad->send({{"type", "spawn"}, {"program", "/x"}, {"arena_bytes", -1}}));
  EXPECT_EQ(bad->receive(patience)->body["errno"], EPROTO);
  ASSERT_TRUE(bad->send({{"type", "bind"}, {"id", "x"}}));
  ASSERT_EQ(::write(bad->fd(), "\xff", 1), 1);
  EXPECT_EQ(bad->receive(patience).err(), ECONNRESET);
  EXPECT_TRUE(spawn().ok());
}

TEST_F(SpawnerTest, ManyThreadsMaySpawnAtOnce) {
  start();
  std::vector<std::thread> threads;
  std::vector<Result<SpawnedServer>> servers;
  servers.reserve(8);
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) servers.emplace_back(Error{EINVAL, "not run", "", ""});
  for (auto& server : servers) threads.emplace_back([this, &server] { server = spawn(); });
  for (auto& thread : threads) thread.join();
  std::set<pid_t> pids;
  for (auto& server : servers) {
    ASSERT_TRUE(server.ok()) << server.error().to_string();
    EXPECT_TRUE(server->channel.receive(patience).ok());
    pids.insert(server->info.pid);
  }
  EXPECT_EQ(pids.size(), servers.size());
}

TEST_F(SpawnerTest, AServerNobodyWaitedForIsKilledWhenItsAnswerComesLate) {
  start();
  EXPECT_EQ(client_->spawn({program_, 0, 0}, 0ms).err(), ETIMEDOUT);
  auto server = spawn();
  ASSERT_TRUE(server.ok()) << server.error().to_string();
  // The late answer is read before that of the first request that is answered after it.
  for (int i = 0; i < 1000 && !wait_readable(client_->fd(), 10ms); ++i)
    ASSERT_TRUE(client_->list(patience).ok());
  auto notice = next_notice(*client_);
  ASSERT_TRUE(notice.has_value());
  EXPECT_EQ(notice->to_string(), "killed by SIGKILL (9)");
  EXPECT_NE(notice->id, server->info.id);
}

TEST_F(SpawnerTest, AClientThatDoesNotReadDelaysNobody) {
  start();
  auto lazy = MessageSocket::connect(options_.socket_path);
  ASSERT_TRUE(lazy.ok());
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(spawn().ok());
  // Far more answers than its socket buffer holds.
  size_t asked = 0;
  for (size_t i = 0; i < 300; ++i)
    if (lazy->send({{"type", "list"}, {"request", i}})) ++asked;
  EXPECT_TRUE(client_->list(patience).ok());
  // Nothing is lost for it either once it reads.
  size_t answered = 0;
  while (answered < asked) {
    auto message = lazy->receive(patience);
    ASSERT_TRUE(message.ok()) << message.error().to_string();
    if (message->body["last"] == true) ++answered;
  }
}

TEST_F(SpawnerTest, ShutdownKillsAllServersAndEnds) {
  start();
  auto server = spawn();
  ASSERT_TRUE(server.ok());
  EXPECT_TRUE(client_->shutdown(patience).ok());
  EXPECT_TRUE(server->pidfd.exited());
  EXPECT_EQ(::kill(server->info.pid, 0), -1);  // not even a zombie is left
  thread_.join();
  EXPECT_TRUE(ended_.ok());
  EXPECT_EQ(client_->list(patience).err(), EPIPE);
  EXPECT_TRUE(connect_spawner(options_.socket_path).err() != 0);
}

TEST_F(SpawnerTest, ASecondSpawnerAtTheSamePathIsRefused) {
  start();
  EXPECT_EQ(Spawner::create(options_, null_logger()).err(), EADDRINUSE);
  EXPECT_TRUE(client_->list(patience).ok());
}

TEST_F(SpawnerTest, ABadRangeOfUidsIsRefused) {
  for (const auto& [base, count] :
       {std::pair<uid_t, uid_t>{0, 10}, {100, 0}, {UINT32_MAX, 1}, {UINT32_MAX - 1, 2}}) {
    SpawnerOptions bad = options_;
    bad.uid_base = base;
    bad.uid_count = count;
    EXPECT_EQ(Spawner::create(bad, null_logger()).err(), ERANGE) << base << "+" << count;
  }
}

TEST(UidPoolTest, TwoPoolsOfOneMachineNeverGiveTheSameUid) {
  const TempDirectory directory;
  UidPool first(1000, 2, directory.path() + "/uids");
  UidPool second(1000, 2, directory.path() + "/uids");
  auto a = std::make_optional(first.take());
  auto b = second.take();
  ASSERT_TRUE(a->ok() && b.ok());
  EXPECT_NE((*a)->uid(), b->uid());
  EXPECT_EQ(first.take().err(), EAGAIN);
  a.reset();
  EXPECT_TRUE(second.take().ok());
}

TEST(UidPoolTest, AUidRestsAsLongAsThereAreOthers) {
  const TempDirectory directory;
  UidPool pool(1000, 3, directory.path() + "/uids");
  std::set<uid_t> seen;
  for (int i = 0; i < 3; ++i) seen.insert(pool.take()->uid());
  EXPECT_EQ(seen, (std::set<uid_t>{1000, 1001, 1002}));
}

// A spawner in a process of its own, started as `ublk-node run` does it.
class SpawnerDaemonTest : public ::testing::Test {
 protected:
  void SetUp() override {
    program_ = install_program(helper_program("spawner_fake_server"), directory_.path());
    socket_ = directory_.path() + "/spawner.sock";
    options_.program = helper_program("spawner_test_daemon");
    options_.arguments = {socket_, directory_.path() + "/uids"};
    options_.log_file = directory_.path() + "/log/spawner.log";
    options_.timeout = patience;
  }
  void TearDown() override {
    if (auto client = connect_spawner(socket_)) (void)(*client)->shutdown(patience);
  }
  [[nodiscard]] Pidfd daemon() const { return listener_of(socket_); }
  [[nodiscard]] std::string log() const {
    auto text = read_file(options_.log_file, 1 << 20);
    return text ? *text : text.error().to_string();
  }
  TempDirectory directory_;
  std::string program_;
  std::string socket_;
  SpawnerDaemonOptions options_;
};

TEST_F(SpawnerDaemonTest, ListensWhenStartReturnsAndBelongsToNobody) {
  auto started = start_spawner_daemon(options_);
  ASSERT_TRUE(started.ok()) << started.error().to_string() << "\n" << log();
  const Pidfd spawner = daemon();
  ASSERT_TRUE(spawner.valid());
  EXPECT_NE(status_field(spawner.pid(), "PPid"), std::to_string(::getpid()));
  EXPECT_NE(::getsid(spawner.pid()), ::getsid(0));
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);  // and no zombie of ours is left
  EXPECT_NE(log().find("listening"), std::string::npos) << log();
}

TEST_F(SpawnerDaemonTest, ASecondOneSaysThatItEnded) {
  ASSERT_TRUE(start_spawner_daemon(options_).ok()) << log();
  const auto second = start_spawner_daemon(options_);
  EXPECT_EQ(second.err(), ECHILD);
  EXPECT_NE(log().find("EADDRINUSE"), std::string::npos) << log();
}

TEST_F(SpawnerDaemonTest, AProgramThatIsNotThereIsReported) {
  options_.program = directory_.path() + "/missing";
  EXPECT_EQ(start_spawner_daemon(options_).err(), ENOENT);
}

TEST_F(SpawnerDaemonTest, ServersDieWithTheirSpawner) {
  ASSERT_TRUE(start_spawner_daemon(options_).ok()) << log();
  auto client = connect_spawner(socket_);
  ASSERT_TRUE(client.ok());
  auto server = (*client)->spawn({program_, 0, 0}, patience);
  ASSERT_TRUE(server.ok()) << server.error().to_string() << "\n" << log();
  ASSERT_TRUE(server->channel.receive(patience).ok());
  ASSERT_TRUE(daemon().kill(SIGKILL).ok());
  EXPECT_TRUE(wait_readable(server->pidfd.fd()));
  ASSERT_TRUE(wait_readable((*client)->fd()));
  EXPECT_EQ((*client)->process_events([](const ExitNotice&) {}).err(), ECONNRESET);
}

TEST_F(SpawnerDaemonTest, ToWhomAServerIsGivenIsSaidWithoutWaitingForOtherRequests) {
  ASSERT_TRUE(start_spawner_daemon(options_).ok()) << log();
  auto client = connect_spawner(socket_);
  ASSERT_TRUE(client.ok());
  auto server = (*client)->spawn({program_, 0, 0}, patience);
  ASSERT_TRUE(server.ok()) << server.error().to_string() << "\n" << log();
  const pid_t spawner = daemon().pid();
  ASSERT_EQ(::kill(spawner, SIGSTOP), 0);
  auto other = std::async(std::launch::async,
                          [&] { return (*client)->spawn({program_, 0, 0}, patience).ok(); });
  (*client)->bind(server->info.id, "pgdata", 7);
  EXPECT_EQ(other.wait_for(std::chrono::seconds(0)), std::future_status::timeout);
  ASSERT_EQ(::kill(spawner, SIGCONT), 0);
  EXPECT_TRUE(other.get());
  auto servers = (*client)->list(patience);
  ASSERT_TRUE(servers.ok()) << servers.error().to_string();
  ASSERT_EQ(servers->size(), 2U);
  EXPECT_EQ(servers->front().info.volume, "pgdata");
}

TEST_F(SpawnerDaemonTest, SigtermKillsTheServersAndEndsTheSpawner) {
  ASSERT_TRUE(start_spawner_daemon(options_).ok()) << log();
  auto client = connect_spawner(socket_);
  ASSERT_TRUE(client.ok());
  auto server = (*client)->spawn({program_, 0, 0}, patience);
  ASSERT_TRUE(server.ok()) << server.error().to_string() << "\n" << log();
  const Pidfd spawner = daemon();
  ASSERT_TRUE(spawner.kill(SIGTERM).ok());
  EXPECT_TRUE(wait_readable(spawner.fd()));
  EXPECT_TRUE(server->pidfd.exited());  // reaped before the spawner ended
  EXPECT_NE(log().find("stopped"), std::string::npos) << log();
}

TEST(ExitNoticeTest, SaysHowAServerEnded) {
  const ExitNotice killed{7, 42, -1, SIGKILL, true};
  const auto read = exit_notice_from_json(to_json(killed));
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(read->to_string(), "killed by SIGKILL (9), out of memory");
  EXPECT_EQ((ExitNotice{7, 42, 1, 0, false}).to_string(), "exited with status 1");
  auto older = to_json(killed);
  older.erase("outOfMemory");
  EXPECT_EQ(exit_notice_from_json(older)->to_string(), "killed by SIGKILL (9)");
}

TEST_F(SpawnerDaemonTest, ServersGetALeafCgroupWhereThatIsPossible) {
  ASSERT_TRUE(start_spawner_daemon(options_).ok()) << log();
  auto client = connect_spawner(socket_);
  ASSERT_TRUE(client.ok());
  auto server = (*client)->spawn({program_, 0, 64 << 20}, patience);
  ASSERT_TRUE(server.ok()) << server.error().to_string() << "\n" << log();
  ASSERT_TRUE(server->channel.receive(patience).ok());
  if (log().find("no cgroup of their own") != std::string::npos)
    GTEST_SKIP() << "no cgroup v2 that is the spawner's alone: " << log();
  const std::string cgroup = ask(server->channel, {{"type", "describe"}})["cgroup"];
  EXPECT_NE(cgroup.find("/servers/" + std::to_string(server->info.id)), std::string::npos)
      << cgroup;
}

}  // namespace
}  // namespace ublk_operator

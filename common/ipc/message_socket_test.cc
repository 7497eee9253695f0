#include "common/ipc/message_socket.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "common/base/limits.h"

namespace ublk_operator {
namespace {

using nlohmann::json;
using std::chrono::milliseconds;

size_t open_fds() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
    ++count;
  return count;
}

// What a peer that is not ours may send: raw bytes and any number of descriptors.
void send_raw(int socket, std::string text, const std::vector<int>& fds = {}) {
  iovec part{text.data(), text.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  std::vector<char> control(CMSG_SPACE(sizeof(int) * fds.size()));
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* c = CMSG_FIRSTHDR(&header);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
    std::memcpy(CMSG_DATA(c), fds.data(), sizeof(int) * fds.size());
  }
  ASSERT_EQ(::sendmsg(socket, &header, MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
}

class MessageSocketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pair = MessageSocket::pair();
    ASSERT_TRUE(pair.ok());
    a_ = std::move(pair->first);
    b_ = std::move(pair->second);
  }
  MessageSocket a_;
  MessageSocket b_;
};

TEST_F(MessageSocketTest, DescriptorsArriveOpenAndCloseOnExec) {
  int pipe_fds[2];
  ASSERT_EQ(::pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd read_end(pipe_fds[0]);
  UniqueFd write_end(pipe_fds[1]);
  ASSERT_TRUE(a_.send({{"type", "here"}}, {write_end.get()}));
  write_end.reset();

  auto message = b_.receive(milliseconds(1000));
  ASSERT_TRUE(message.ok()) << message.error().to_string();
  EXPECT_EQ(message->body["type"], "here");
  ASSERT_EQ(message->fds.size(), 1U);
  EXPECT_NE(::fcntl(message->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  ASSERT_EQ(::write(message->fds[0].get(), "x", 1), 1);
  char c = 0;
  EXPECT_EQ(::read(read_end.get(), &c, 1), 1);
}

TEST_F(MessageSocketTest, MessagesKeepTheirBoundariesAndOrder) {
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(a_.send({{"i", i}}));
  for (int i = 0; i < 10; ++i) EXPECT_EQ(b_.try_receive()->body["i"], i);
  EXPECT_EQ(b_.try_receive().err(), EAGAIN);
}

TEST_F(MessageSocketTest, TheLargestMessageFits) {
  const std::string text(limits::message_bytes_max - json{{"t", ""}}.dump().size(), 'x');
  ASSERT_TRUE(a_.send({{"t", text}}));
  EXPECT_EQ(b_.try_receive()->body["t"], text);
}

TEST_F(MessageSocketTest, TooLargeAMessageIsNotSent) {
  EXPECT_EQ(a_.send({{"t", std::string(limits::message_bytes_max, 'x')}}).err(), EMSGSIZE);
  EXPECT_EQ(a_.send({{"t", 1}}, std::vector<int>(limits::message_fds_max + 1, 0)).err(), EMSGSIZE);
  EXPECT_EQ(b_.try_receive().err(), EAGAIN);
}

TEST_F(MessageSocketTest, ATruncatedMessageIsRefusedAndItsDescriptorsClosed) {
  const size_t before = open_fds();
  send_raw(a_.fd(), std::string(limits::message_bytes_max + 1, ' '), {0, 0});
  EXPECT_EQ(b_.try_receive().err(), EPROTO);
  EXPECT_EQ(open_fds(), before);
}

TEST_F(MessageSocketTest, TooManyDescriptorsAreRefusedAndAllClosed) {
  const size_t before = open_fds();
  send_raw(a_.fd(), "{}", std::vector<int>(limits::message_fds_max + 1, 0));
  EXPECT_EQ(b_.try_receive().err(), EPROTO);
  EXPECT_EQ(open_fds(), before);
}

TEST_F(MessageSocketTest, GarbageIsRefusedAndTheNextMessageStillArrives) {
  const size_t before = open_fds();
  for (const char* garbage : {"\xff\xfe{", "[1]", "7", "{\"a\":", "{\"a\":\"\xc3\x28\"}"}) {
    send_raw(a_.fd(), garbage, {0});
    EXPECT_EQ(b_.try_receive().err(), EPROTO) << garbage;
  }
  EXPECT_EQ(open_fds(), before);
  ASSERT_TRUE(a_.send({{"type", "fine"}}));
  EXPECT_EQ(b_.try_receive()->body["type"], "fine");
}

TEST_F(MessageSocketTest, AnEmptyDatagramCountsAsEndOfStreamAndLeaksNothing) {
  const size_t before = open_fds();
  send_raw(a_.fd(), "", {0});
  EXPECT_EQ(b_.try_receive().err(), ECONNRESET);
  EXPECT_EQ(open_fds(), before);
}

TEST_F(MessageSocketTest, TextThatIsNotUtf8IsSentWithReplacementCharacters) {
  ASSERT_TRUE(a_.send({{"path", "a\xff"}}));
  EXPECT_EQ(b_.try_receive()->body["path"], "a\xef\xbf\xbd");
}

TEST_F(MessageSocketTest, AClosedPeerIsReportedByBothDirections) {
  ASSERT_TRUE(a_.send({{"last", true}}));
  a_.close();
  EXPECT_TRUE(b_.receive(milliseconds(1000)).ok());  // what was sent before still arrives
  EXPECT_EQ(b_.receive(milliseconds(1000)).err(), ECONNRESET);
  EXPECT_EQ(b_.send({{"x", 1}}).err(), EPIPE);  // and no SIGPIPE
}

TEST_F(MessageSocketTest, SendingToAPeerThatDoesNotReadFailsInsteadOfWaiting) {
  const json body{{"t", std::string(limits::message_bytes_max / 2, 'x')}};
  Result<void> sent;
  for (int i = 0; i < 1000 && sent.ok(); ++i) sent = a_.send(body);
  EXPECT_EQ(sent.err(), EAGAIN);
}

TEST_F(MessageSocketTest, ReceivingEndsAtItsDeadline) {
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(b_.receive(milliseconds(30)).err(), ETIMEDOUT);
  EXPECT_GE(std::chrono::steady_clock::now() - start, milliseconds(30));
  EXPECT_EQ(b_.receive(milliseconds(-1)).err(), ETIMEDOUT);
}

TEST_F(MessageSocketTest, ReceivingWakesUpForAMessageOfAnotherThread) {
  std::thread sender([this] { EXPECT_TRUE(a_.send({{"type", "hello"}})); });
  auto message = b_.receive(milliseconds::max());
  sender.join();
  ASSERT_TRUE(message.ok());
  EXPECT_EQ(message->body["type"], "hello");
}

TEST_F(MessageSocketTest, ADuplicateKeepsTheConnectionOpen) {
  auto copy = a_.duplicate();
  ASSERT_TRUE(copy.ok());
  a_.close();
  ASSERT_TRUE(copy->send({{"from", "copy"}}));
  EXPECT_EQ(b_.try_receive()->body["from"], "copy");
}

class MessageListenerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "ipc_test.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    path_ = dir_ + "/s.sock";
  }
  void TearDown() override { std::filesystem::remove_all(dir_); }
  std::string dir_;
  std::string path_;
};

TEST_F(MessageListenerTest, AcceptsConnectionsWithTheModeAskedFor) {
  auto listener = MessageListener::listen(path_, 0660);
  ASSERT_TRUE(listener.ok()) << listener.error().to_string();
  struct stat info{};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0660U);
  EXPECT_EQ(listener->accept().err(), EAGAIN);

  auto client = MessageSocket::connect(path_);
  ASSERT_TRUE(client.ok()) << client.error().to_string();
  auto served = listener->accept();
  ASSERT_TRUE(served.ok());
  ASSERT_TRUE(client->send({{"type", "hi"}}));
  EXPECT_EQ(served->receive(milliseconds(1000))->body["type"], "hi");
}

TEST_F(MessageListenerTest, ASecondListenerIsRefusedAndTheFirstGoesOn) {
  auto first = MessageListener::listen(path_, 0600);
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(MessageListener::listen(path_, 0600).err(), EADDRINUSE);
  EXPECT_TRUE(MessageSocket::connect(path_).ok());
}

TEST_F(MessageListenerTest, AStaleSocketIsReplaced) {
  {
    ASSERT_TRUE(MessageListener::listen(path_, 0600).ok());
  }
  EXPECT_EQ(MessageSocket::connect(path_).err(), ECONNREFUSED);
  auto next = MessageListener::listen(path_, 0600);
  ASSERT_TRUE(next.ok()) << next.error().to_string();
  EXPECT_TRUE(MessageSocket::connect(path_).ok());
}

TEST_F(MessageListenerTest, AFileThatIsNotASocketIsNeverDeleted) {
  std::ofstream(path_) << "precious";
  EXPECT_EQ(MessageListener::listen(path_, 0600).err(), EEXIST);
  std::string text;
  std::ifstream(path_) >> text;
  EXPECT_EQ(text, "precious");
}

TEST_F(MessageListenerTest, OfManyThatStartTogetherExactlyOneListens) {
  {
    ASSERT_TRUE(MessageListener::listen(path_, 0600).ok());
  }  // leaves a stale socket
  std::vector<Result<MessageListener>> results;
  results.reserve(8);
  for (int i = 0; i < 8; ++i) results.emplace_back(Error{EINVAL, "not run", "", ""});
  std::vector<std::thread> threads;
  threads.reserve(results.size());
  for (auto& result : results)
    threads.emplace_back([this, &result] { result = MessageListener::listen(path_, 0600); });
  for (auto& thread : threads) thread.join();
  size_t listening = 0;
  for (const auto& result : results) {
    if (result.ok())
      ++listening;
    else
      EXPECT_EQ(result.err(), EADDRINUSE) << result.error().to_string();
  }
  EXPECT_EQ(listening, 1U);
  EXPECT_TRUE(MessageSocket::connect(path_).ok());
}

TEST_F(MessageListenerTest, PathsThatCannotBeAreRefused) {
  EXPECT_EQ(MessageSocket::connect(path_).err(), ENOENT);
  EXPECT_EQ(MessageListener::listen("/" + std::string(200, 'x'), 0600).err(), ENAMETOOLONG);
  EXPECT_EQ(MessageListener::listen(dir_ + "/no/such/s.sock", 0600).err(), ENOENT);
}

}  // namespace
}  // namespace ublk_operator

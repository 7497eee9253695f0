#include "common/base/sd_notify.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <string>

#include "common/base/unique_fd.h"

namespace ublk_operator {
namespace {

TEST(SdNotifyTest, WithoutAServiceManagerNothingHappens) {
  ::unsetenv("NOTIFY_SOCKET");
  EXPECT_TRUE(sd_notify("READY=1"));
}

TEST(SdNotifyTest, SendsTheStateToAnAbstractSocket) {
  UniqueFd manager(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const std::string name = "@ublk-sd-notify-test-" + std::to_string(::getpid());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, name.data(), name.size());
  address.sun_path[0] = '\0';
  ASSERT_EQ(::bind(manager.get(), reinterpret_cast<const sockaddr*>(&address),
                   static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size())),
            0);
  ::setenv("NOTIFY_SOCKET", name.c_str(), 1);
  const auto sent = sd_notify("READY=1");
  ::unsetenv("NOTIFY_SOCKET");
  ASSERT_TRUE(sent.ok()) << sent.error().to_string();
  char text[64] = {};
  ASSERT_EQ(::recv(manager.get(), text, sizeof text - 1, MSG_DONTWAIT), 7);
  EXPECT_STREQ(text, "READY=1");
}

TEST(SdNotifyTest, AManagerThatIsGoneIsAnError) {
  ::setenv("NOTIFY_SOCKET", "/nowhere/notify", 1);
  EXPECT_EQ(sd_notify("READY=1").err(), ENOENT);
  ::unsetenv("NOTIFY_SOCKET");
}

}  // namespace
}  // namespace ublk_operator

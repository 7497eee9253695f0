// Which API server a program talks to, by kubeconfig or from inside a pod.
#include "common/kube/config.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace ublk_operator::kube {
namespace {

class KubeConfigTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "kube_config.XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
  }
  void TearDown() override {
    std::filesystem::remove_all(dir_);
    ::unsetenv("KUBERNETES_SERVICE_HOST");
    ::unsetenv("KUBERNETES_SERVICE_PORT");
  }
  std::string write(const std::string& name, const std::string& text) const {
    const std::filesystem::path path = dir_ + "/" + name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path) << text;
    return path;
  }
  std::string dir_;
};

constexpr const char* good = R"(
apiVersion: v1
kind: Config
clusters:
- {name: c, cluster: {server: "https://127.0.0.1:6443", certificate-authority-data: aGVsbG8=}}
users:
- {name: u, user: {token: secret}}
- {name: cert, user: {client-certificate: crt.pem, client-key-data: a2V5}}
contexts:
- {name: one, context: {cluster: c, user: u, namespace: n}}
- {name: two, context: {cluster: c, user: cert}}
current-context: one
)";

TEST_F(KubeConfigTest, OfAFileIsItsCurrentContext) {
  const auto config = kubeconfig(write("config", good));
  ASSERT_TRUE(config.ok()) << config.error().to_string();
  EXPECT_EQ(config->server, "https://127.0.0.1:6443");
  EXPECT_EQ(config->authority_data, "hello");
  EXPECT_EQ(config->token, "secret");
  EXPECT_EQ(config->namespace_name, "n");
}

TEST_F(KubeConfigTest, FilesItNamesAreBesideIt) {
  write("crt.pem", "certificate");
  const auto config = kubeconfig(write("config", good), "two");
  ASSERT_TRUE(config.ok()) << config.error().to_string();
  EXPECT_EQ(config->client_certificate, "certificate");
  EXPECT_EQ(config->client_key, "key");
  EXPECT_EQ(config->namespace_name, "default");
}

TEST_F(KubeConfigTest, WhatIsWrongIsSaid) {
  const auto error = [&](const std::string& text, const std::string& context = "") {
    const auto config = kubeconfig(write("config", text), context);
    return config.ok() ? std::string("(no error)") : config.error().to_string();
  };
  EXPECT_NE(error(good, "three").find("no context \"three\""), std::string::npos);
  EXPECT_NE(error("{").find("EINVAL"), std::string::npos);
  std::string insecure = good;
  insecure.replace(insecure.find("certificate-authority-data: aGVsbG8="), 36,
                   "insecure-skip-tls-verify: true");
  EXPECT_NE(error(insecure).find("certificate-authority"), std::string::npos);
  std::string exec = good;
  exec.replace(exec.find("token: secret"), 13, "exec: {command: x}");
  EXPECT_NE(error(exec).find("\"exec\" is not supported"), std::string::npos);
  EXPECT_EQ(kubeconfig(dir_ + "/none").err(), ENOENT);
}

TEST_F(KubeConfigTest, OfAPodIsItsServiceAccount) {
  const std::string account = "var/run/secrets/kubernetes.io/serviceaccount/";
  write(account + "token", "t1\n");
  write(account + "ca.crt", "authority");
  write(account + "namespace", "ublk-system");
  EXPECT_EQ(in_cluster_config(dir_).err(), ENOENT) << "no service address: not a pod";
  ::setenv("KUBERNETES_SERVICE_HOST", "fd00::1", 1);
  ::setenv("KUBERNETES_SERVICE_PORT", "443", 1);
  const auto config = in_cluster_config(dir_);
  ASSERT_TRUE(config.ok()) << config.error().to_string();
  EXPECT_EQ(config->server, "https://[fd00::1]:443");
  EXPECT_EQ(config->namespace_name, "ublk-system");
  EXPECT_TRUE(config->token.empty()) << "it is read again for every request";
}

}  // namespace
}  // namespace ublk_operator::kube

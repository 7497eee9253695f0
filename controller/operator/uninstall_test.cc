// Which volumes stand in the way of an uninstall, and how that is said.
#include "controller/operator/uninstall.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cerrno>

#include "common/kube/fake_api_server.h"
#include "controller/operator/test_objects.h"

namespace ublk_operator::controller {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const std::string volumes = "/apis/ublk.dev/v1alpha1/ublkvolumes";

class UninstallTest : public ::testing::Test {
 protected:
  void put(const std::string& name, const json& status, const json& metadata = json::object()) {
    json object = testing::volume_json(name, "a");
    object["metadata"].update(metadata);
    object["status"] = status;
    server_->put(volumes + "/" + name, object);
  }
  [[nodiscard]] std::vector<std::string> names() const {
    const auto found = volumes_with_device(client_, never_);
    EXPECT_TRUE(found.ok()) << found.error().to_string();
    std::vector<std::string> names;
    if (found)
      for (const auto& volume : *found) names.push_back(volume.name);
    return names;
  }

  std::shared_ptr<kube::FakeApiServer> server_ = std::make_shared<kube::FakeApiServer>();
  kube::KubeClient client_{server_};
  kube::Cancel never_;
};

TEST_F(UninstallTest, VolumesWithADeviceAndNoOthers) {
  EXPECT_THAT(names(), ElementsAre());
  server_->put(volumes + "/new", testing::volume_json("new"));
  put("served", {{"deviceID", 0}, {"devicePath", "/dev/ublkb0"}, {"state", "LIVE"}});
  put("without-server", {{"deviceID", 1}, {"devicePath", "/dev/ublkb1"}, {"state", "QUIESCED"}});
  put("without-disk", {{"deviceID", 2}, {"state", "DEAD"}});
  put("stopped", {{"observedGeneration", 1}, {"size", "1Gi"}});
  put("going", {{"deviceID", 3}, {"state", "LIVE"}},
      {{"deletionTimestamp", "2026-01-01T00:00:00Z"}});
  EXPECT_THAT(names(), ElementsAre("going", "served", "without-disk", "without-server"));
}

TEST_F(UninstallTest, WithoutTheDefinitionThereAreNone) {
  server_->interfere([](const kube::HttpRequest&) -> std::optional<Result<kube::HttpResponse>> {
    return kube::HttpResponse{404, "404 page not found"};
  });
  EXPECT_THAT(names(), ElementsAre());
}

TEST_F(UninstallTest, AServerThatDoesNotAnswerIsNoPermission) {
  server_->interfere([](const kube::HttpRequest&) -> std::optional<Result<kube::HttpResponse>> {
    return kube::HttpResponse{403, "{}"};
  });
  EXPECT_EQ(volumes_with_device(client_, never_).err(), EACCES);
}

// A list in pages, of which the server forgets the rest, the first time or always.
class PagesTest : public UninstallTest {
 protected:
  void pages(int times) {
    server_->interfere([this, times](const kube::HttpRequest& request)
                           -> std::optional<Result<kube::HttpResponse>> {
      const bool rest = request.path.find("continue=a%2Fb") != std::string::npos;
      if (rest && forgotten_++ < times) return kube::HttpResponse{410, R"({"reason": "Expired"})"};
      json object = testing::volume_json(rest ? "second" : "first", "a");
      object["status"] = {{"deviceID", 1}};
      return kube::HttpResponse{
          200, json{{"metadata", {{"continue", rest ? "" : "a/b"}}}, {"items", {object}}}.dump()};
    });
  }
  int forgotten_ = 0;
};

TEST_F(PagesTest, AllOfThemCount) {
  pages(0);
  EXPECT_THAT(names(), ElementsAre("first", "second"));
}

TEST_F(PagesTest, AForgottenListIsReadAnew) {
  pages(1);
  EXPECT_THAT(names(), ElementsAre("first", "second"));
}

TEST_F(PagesTest, ButNotForEver) {
  pages(1000);
  EXPECT_EQ(volumes_with_device(client_, never_).err(), EAGAIN);
}

TEST_F(UninstallTest, TheRefusalNamesEachVolumeAndItsUsers) {
  put("v",
      {{"deviceID", 3},
       {"devicePath", "/dev/ublkb3"},
       {"state", "LIVE"},
       {"conditions",
        {{{"type", "Ready"}, {"status", "True"}, {"message", "is served"}},
         {{"type", "InUse"}, {"status", "True"}, {"message", "waits for: 1234 (postgres)\nyes"}}}}},
      {{"deletionTimestamp", "2026-01-01T00:00:00Z"}});
  put("w", {{"deviceID", 4},
            {"conditions", {{{"type", "InUse"}, {"status", "False"}, {"message", "nothing"}}}}});
  const auto found = volumes_with_device(client_, never_);
  ASSERT_TRUE(found.ok());
  const std::string said = refusal(*found);
  EXPECT_THAT(said,
              StartsWith("v on a, /dev/ublkb3, LIVE, being deleted: waits for: 1234 (postgres) "
                         "yes\nw on a\nrefused: 2 volumes still have devices"));
  EXPECT_THAT(said, HasSubstr("helm uninstall --no-hooks"));
}

// A pod's status keeps the last 2048 bytes of a log.
TEST_F(UninstallTest, TheLogHasAllOfThemAndItsEndTheReason) {
  const std::vector<VolumeWithDevice> many(
      1000, {std::string(40, 'v'), "node-1", "/dev/ublkb1000", "QUIESCED", "", false});
  const std::string said = refusal(many);
  EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1001);
  EXPECT_THAT(said.substr(said.size() - 2048), HasSubstr("refused: 1000 volumes"));
}

}  // namespace
}  // namespace ublk_operator::controller

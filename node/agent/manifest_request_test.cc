// What is asked to be applied becomes a manifest file for each volume, as its user wrote it.
#include "node/agent/manifest_request.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>

#include "common/api/decode.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {
namespace {

std::string volume(const std::string& name, const std::string& more = "") {
  return "apiVersion: ublk.dev/v1alpha1\nkind: UblkVolume\nmetadata:\n  name: " + name + "\n" +
         more + "spec: {size: 4Mi, backend: {\"null\": {}}}\n";
}

std::vector<RequestedManifest> read(const std::string& request) {
  auto manifests = read_request(request);
  EXPECT_TRUE(manifests.ok()) << (manifests ? "" : manifests.error().to_string());
  return manifests ? *manifests : std::vector<RequestedManifest>{};
}

TEST(ManifestRequestTest, OneVolumeIsKeptToTheLetter) {
  const std::string request = "# of the database\n---\n" + volume("a") + "...\n---\n# no more";
  const auto manifests = read(request);
  ASSERT_EQ(manifests.size(), 1U);
  EXPECT_EQ(manifests[0].name, "a");
  EXPECT_EQ(manifests[0].text, request);
}

TEST(ManifestRequestTest, EachVolumeTakesItsCommentsAlong) {
  const std::string first = "# all of them are null\n---\n# the first\n" + volume("a");
  const std::string second = "---\n# for the tests\n" + volume("b");
  const std::string third = "--- # written by hand\n" + volume("c");
  const auto manifests = read(first + second + "---\n# nothing\n" + third);
  ASSERT_EQ(manifests.size(), 3U);
  EXPECT_EQ(manifests[0].text, first);
  EXPECT_EQ(manifests[1].text, second + "---\n# nothing\n");
  EXPECT_EQ(manifests[2].text, third);
}

std::string json_volume(const std::string& name) {
  return R"({"apiVersion": "ublk.dev/v1alpha1", "kind": "UblkVolume", "metadata": {"name": ")" +
         name + R"("},)" + "\n" + R"( "spec": {"size": "4Mi", "backend": {"null": {}}}})";
}

// Each file must hold what was asked for, however two documents are told apart.
TEST(ManifestRequestTest, EachFileMeansWhatTheRequestMeant) {
  const std::string note = "  annotations:\n    note: |\n      above\n      ---\n      below\n";
  const std::string quoted = "  annotations: {note: \"above\n%below\"}\n";
  for (const std::string& request : {
           volume("a", note) + "---\n" + volume("b", note),
           volume("a", quoted) + "---\n" + volume("b"),
           volume("a") + "...\n" + volume("b"),
           "---\n" + volume("a") + "...\n%YAML 1.2\n# of b\n---\n" + volume("b"),
           "---\r\n" + volume("a") + "---\r\n" + volume("b"),
           "--- " + json_volume("a") + "\n--- \n" + volume("b"),
           "---\n---\n" + volume("a") + "---\n---\n" + volume("b") + "---\n",
           "---\n" + json_volume("a") + "\n" + json_volume("b"),
           json_volume("a") + json_volume("b"),
       }) {
    const auto asked = decode_manifest(request, "request");
    ASSERT_TRUE(asked.ok()) << request;
    ASSERT_EQ(asked.documents.size(), 2U) << request;
    const auto manifests = read(request);
    ASSERT_EQ(manifests.size(), 2U) << request;
    for (size_t i = 0; i < manifests.size(); ++i) {
      const auto file = decode_manifest(manifests[i].text, "file");
      ASSERT_TRUE(file.ok()) << manifests[i].text;
      ASSERT_EQ(file.documents.size(), 1U) << manifests[i].text;
      EXPECT_EQ(file.documents[0].name, manifests[i].name);
      EXPECT_EQ(to_json(*file.documents[0].volume), to_json(*asked.documents[i].volume));
    }
  }
}

TEST(ManifestRequestTest, OneWrongDocumentRefusesTheWholeRequest) {
  const auto refused =
      read_request(volume("a") + "---\nkind: Pod\n---\n" + volume("b", "  color: red\n"));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.err(), EINVAL);
  EXPECT_THAT(refused.error().detail, testing::HasSubstr("kind"));
  EXPECT_THAT(refused.error().detail, testing::HasSubstr("color"));
  EXPECT_EQ(read_request("# nothing yet\n").err(), EINVAL);
}

}  // namespace
}  // namespace ublk_operator

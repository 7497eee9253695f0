// Files with several documents, and what is known about each when some are broken.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/api/decode.h"
#include "common/api/test_manifests.h"
#include "common/base/limits.h"

namespace ublk_operator {
namespace {

using testing::ElementsAre;
using testing_manifests::header;
using testing_manifests::problems_of;

std::string volume(const std::string& name) {
  return header(name) + "spec: {size: 1Gi, backend: {null: {}}}\n";
}

TEST(DocumentsTest, EachIsAVolumeAndEmptyOnesArePassedOver) {
  const auto manifest =
      decode_manifest("# volumes of the database\n---\n" + volume("a") +
                          "---\n---\n# nothing\n---\n" + volume("b") + "...\n---\n",
                      "vol.yaml");
  EXPECT_TRUE(manifest.ok());
  ASSERT_EQ(manifest.documents.size(), 2U);
  EXPECT_EQ(manifest.documents[0].name, "a");
  EXPECT_EQ(manifest.documents[0].line, 3);
  EXPECT_EQ(manifest.documents[1].volume->metadata.name, "b");
}

// Editors and `>` empty a file before they write it.
TEST(DocumentsTest, AFileWithoutAnyIsAProblemAndNotARemoval) {
  for (const char* text : {"", "\n \n", "# all of it\n# is a comment\n", "---\n", "---\n...\n"}) {
    EXPECT_THAT(problems_of(text),
                ElementsAre("vol.yaml: holds no document; expected at least one UblkVolume (to "
                            "remove volumes, remove the file)"))
        << text;
  }
}

TEST(DocumentsTest, ABrokenOneKeepsItsNameAndSparesTheOthers) {
  const auto manifest =
      decode_manifest(volume("a") + "---\n" + header("b") +
                          "spec: {size: -1, backend: {null: {}}}\n---\n" + volume("c"),
                      "vol.yaml");
  EXPECT_FALSE(manifest.ok());
  EXPECT_TRUE(manifest.problems.empty());
  ASSERT_EQ(manifest.documents.size(), 3U);
  EXPECT_TRUE(manifest.documents[0].volume.has_value());
  EXPECT_FALSE(manifest.documents[1].volume.has_value());
  EXPECT_EQ(manifest.documents[1].name, "b");
  EXPECT_EQ(manifest.documents[1].problems.size(), 1U);
  EXPECT_TRUE(manifest.documents[2].volume.has_value());
}

TEST(DocumentsTest, AfterASyntaxErrorTheRestOfTheFileIsUnknown) {
  const auto manifest = decode_manifest(
      volume("a") + "---\n" + header("b") + "spec: }\n---\n" + volume("c"), "vol.yaml");
  ASSERT_EQ(manifest.documents.size(), 2U);
  EXPECT_TRUE(manifest.documents[0].volume.has_value());
  EXPECT_EQ(manifest.documents[1].name, "b");
  ASSERT_EQ(manifest.documents[1].problems.size(), 1U);
  EXPECT_EQ(manifest.documents[1].problems[0].to_string(),
            "vol.yaml:11:7: not valid YAML: a '}' or ']' without its beginning");
  ASSERT_EQ(manifest.problems.size(), 1U);
  EXPECT_EQ(manifest.problems[0].to_string(),
            "vol.yaml:11:7: the file could not be read from here on: its other volumes are left as "
            "they are");
}

TEST(DocumentsTest, ASyntaxErrorBeforeTheNameIsOneOfTheFile) {
  const auto manifest = decode_manifest("apiVersion: }\n", "vol.yaml");
  EXPECT_TRUE(manifest.documents.empty());
  ASSERT_EQ(manifest.problems.size(), 1U);
  EXPECT_EQ(manifest.problems[0].to_string(),
            "vol.yaml:1:13: not valid YAML: a '}' or ']' without its beginning");
}

TEST(DocumentsTest, TheSecondOfTwoWithOneNameIsRefused) {
  const auto manifest =
      decode_manifest(volume("a") + "---\n" + volume("b") + "---\n" + volume("a"), "vol.yaml");
  ASSERT_EQ(manifest.documents.size(), 3U);
  EXPECT_TRUE(manifest.documents[0].volume.has_value());
  EXPECT_FALSE(manifest.documents[2].volume.has_value());
  EXPECT_EQ(manifest.documents[2].problems[0].to_string(),
            "vol.yaml:13:1: metadata.name: 'a' is already the name of the document in line 1");
}

TEST(DocumentsTest, TheirNumberIsBounded) {
  std::string text;
  for (size_t i = 0; i <= limits::volumes_max; ++i) {
    text += "---\n" + volume("v" + std::to_string(i));
  }
  const auto manifest = decode_manifest(text, "vol.yaml");
  EXPECT_EQ(manifest.documents.size(), limits::volumes_max);
  ASSERT_EQ(manifest.problems.size(), 1U);
  EXPECT_EQ(manifest.problems[0].message,
            "more than 1024 documents; put the rest into another file");
}

TEST(DocumentsTest, AnUnreadableNameIsNoName) {
  for (const char* name : {"[a]", "7", "\"../../etc\"", "A", "null", ""}) {
    const auto manifest = decode_manifest(volume(name), "vol.yaml");
    ASSERT_EQ(manifest.documents.size(), 1U);
    EXPECT_EQ(manifest.documents[0].name, "");
    EXPECT_FALSE(manifest.documents[0].volume.has_value());
  }
}

}  // namespace
}  // namespace ublk_operator

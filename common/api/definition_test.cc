// The definition of UblkVolume that the API server checks with and the decoder agree: the same
// fields, choices, bounds and defaults. A field that is added in one place alone fails here. The
// reference is rendered from the definition (./dev manifests).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "common/api/decode.h"
#include "common/api/test_definition.h"
#include "common/base/strings.h"

namespace ublk_operator {
namespace {

using nlohmann::json;
using test_definition::Fields;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Names = std::set<std::string>;

const json& definition() {
  static const json schema = test_definition::schema(UBLK_SOURCE_DIR, "ublkvolumes.yaml");
  return schema;
}
const json& spec_schema() { return definition()["properties"]["spec"]; }
const json& status_schema() { return definition()["properties"]["status"]; }

// A manifest with nothing that could be left out.
json manifest() {
  return {{"apiVersion", "ublk.dev/v1alpha1"},
          {"kind", "UblkVolume"},
          {"metadata", {{"name", "pgdata"}}},
          {"spec", {{"size", "1Gi"}, {"backend", {{"file", {{"path", "x"}}}}}}}};
}
json::json_pointer pointer(const std::string& path) {
  json::json_pointer at("/spec");
  for (const auto part : split(path, '.')) at /= std::string(part);
  return at;
}
json with(const std::string& path, const json& value) {
  json object = manifest();
  if (path.starts_with("backend.null")) object["spec"]["backend"] = json::object();
  object[pointer(path)] = value;
  return object;
}
// What the decoder says about that field of it, "" for nothing.
std::string said(const json& object, const std::string& path) {
  for (const auto& document : decode_manifest(object.dump(), "m").documents)
    for (const auto& problem : document.problems)
      if (problem.field == "spec." + path) return problem.message;
  return "";
}

// "...; expected a, b or c (did you mean...)" -> a, b, c
Names offered(const std::string& message) {
  constexpr std::string_view before = "; expected ";
  const size_t begin = message.find(before);
  if (begin == std::string::npos) return {};
  std::string list = message.substr(begin + before.size());
  list = list.substr(0, list.find(" ("));
  if (const size_t last = list.rfind(" or "); last != std::string::npos)
    list.replace(last, 4, ", ");
  Names names;
  for (const auto name : split(list, ',')) {
    const size_t from = name.find_first_not_of(' ');
    if (from != std::string::npos) names.emplace(name.substr(from));
  }
  return names;
}

// Every object with fields of its own, "" for the spec itself.
void add_objects(const std::string& path, const json& schema,  // NOLINT(misc-no-recursion)
                 Fields& objects) {
  if (!schema.contains("properties")) return;
  objects[path] = schema;
  for (const auto& [name, field] : schema["properties"].items())
    add_objects(path.empty() ? name : path + "." + name, field, objects);
}
Fields objects() {
  Fields objects;
  add_objects("", spec_schema(), objects);
  return objects;
}
Fields leaves() { return test_definition::leaves_of(spec_schema()); }

TEST(DefinitionTest, TheSpecHasTheFieldsThatTheDecoderKnows) {
  const Fields all = objects();
  EXPECT_GE(all.size(), 6U);
  for (const auto& [path, schema] : all) {
    const std::string stranger = (path.empty() ? "" : path + ".") + "zzzzzzzzzzzzzzzz";
    const std::string message = said(with(stranger, 1), stranger);
    ASSERT_THAT(message, StartsWith("unknown field; expected ")) << path;
    Names defined;
    for (const auto& [name, field] : schema["properties"].items()) defined.insert(name);
    EXPECT_EQ(defined, offered(message)) << "fields of spec." << path;
  }
}

TEST(DefinitionTest, ChoicesAreTheSame) {
  size_t choices = 0;
  for (const auto& [path, schema] : leaves()) {
    if (schema.value("type", "") == "boolean" || schema.value("type", "") == "object") continue;
    const bool number = schema.value("type", "") == "integer";
    const std::string message = said(with(path, number ? json(513) : json("Zzzzzzzz")), path);
    Names defined;
    for (const auto& value : schema.value("enum", json::array()))
      defined.insert(value.is_string() ? value.get<std::string>() : value.dump());
    choices += size_t{defined.empty() ? 0U : 1U};
    EXPECT_EQ(defined, message.starts_with("unknown value") ? offered(message) : Names{})
        << "choices of spec." << path;
  }
  EXPECT_GE(choices, 5U);
}

TEST(DefinitionTest, BoundsAreTheSame) {
  size_t bounds = 0;
  for (const auto& [path, schema] : leaves()) {
    if (schema.value("type", "") != "integer" || schema.contains("enum")) continue;
    ASSERT_TRUE(schema.contains("minimum") && schema.contains("maximum")) << path;
    const int64_t least = schema["minimum"];
    const int64_t most = schema["maximum"];
    const std::string expected =
        "is not a whole number from " + std::to_string(least) + " to " + std::to_string(most);
    for (const int64_t outside : {least - 1, most + 1})
      EXPECT_THAT(said(with(path, outside), path), HasSubstr(expected))
          << "bounds of spec." << path;
    ++bounds;
  }
  EXPECT_GE(bounds, 3U);
}

TEST(DefinitionTest, DefaultsAndTypesAreTheSame) {
  const auto decoded = decode_manifest(manifest().dump(), "m");
  ASSERT_TRUE(decoded.ok());
  const Fields defined = leaves();
  const Fields values =
      test_definition::values_of(to_json(*decoded.documents.at(0).volume)["spec"]);
  for (const auto& [path, value] : values) {
    ASSERT_TRUE(defined.contains(path)) << "the definition does not know spec." << path;
    EXPECT_TRUE(test_definition::is_of_type(value, defined.at(path))) << path << ": " << value;
  }
  for (const auto& [path, schema] : defined) {
    if (schema.contains("default")) {
      ASSERT_TRUE(values.contains(path)) << "the decoder has no default for spec." << path;
      EXPECT_EQ(values.at(path), schema["default"]) << "default of spec." << path;
    } else if (path != "size" && path != "backend.file.path") {
      EXPECT_FALSE(values.contains(path)) << "the definition has no default for spec." << path;
    }
  }
}

TEST(DefinitionTest, TheSameFieldsMustBeThere) {
  Names required;
  for (const auto& [path, schema] : objects())
    for (const std::string name : schema.value("required", json::array()))
      required.insert((path.empty() ? "" : path + ".") + name);
  EXPECT_EQ(required, (Names{"size", "backend", "backend.file.path"})) << "and no others";
  for (const auto& path : required) {
    json object = manifest();
    const auto at = pointer(path);
    object[at.parent_pointer()].erase(at.back());
    EXPECT_THAT(said(object, path), StartsWith("is missing")) << path;
  }
}

TEST(DefinitionTest, TheStatusIsWhatNodesWrite) {
  Volume volume;
  VolumeStatus& status = volume.status;
  status.observed_generation = 1;
  status.conditions = {{"Ready", ConditionStatus::yes, "r", "m", 1, "2026-01-01T00:00:00Z"}};
  status.device_id = 1;
  status.device_path = status.link_path = status.state = "x";
  status.server_pid = 1;
  status.last_recovery_duration = std::chrono::milliseconds(1);
  status.last_recovery_reason = status.last_recovery_time = "x";
  status.size_bytes = 4096;
  status.io["read"] = {};
  status.io_errors["EIO"] = 1;
  json written = to_json(volume)["status"];
  // Counters that change with every I/O are for the node's own API and /metrics.
  ASSERT_EQ(written.erase("io") + written.erase("ioErrors"), 2U);
  const Fields values = test_definition::values_of(written);
  const Fields defined = test_definition::leaves_of(status_schema());
  for (const auto& [path, value] : values) {
    ASSERT_TRUE(defined.contains(path)) << "the definition does not know status." << path;
    EXPECT_TRUE(test_definition::is_of_type(value, defined.at(path))) << path << ": " << value;
  }
  for (const auto& [path, schema] : defined)
    EXPECT_TRUE(values.contains(path)) << "nobody writes status." << path;
}

}  // namespace
}  // namespace ublk_operator

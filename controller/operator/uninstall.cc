#include "controller/operator/uninstall.h"

#include <algorithm>
#include <cerrno>
#include <optional>

namespace ublk_operator::controller {

namespace {

using nlohmann::json;
using Found = std::vector<VolumeWithDevice>;

constexpr int attempts_max = 3;

const json& at(const json& object, const char* field) {
  static const json none;
  const auto found = object.is_object() ? object.find(field) : object.end();
  return object.is_object() && found != object.end() ? *found : none;
}

std::string text(const json& object, const char* field) {
  const json& value = at(object, field);
  return value.is_string() ? value.get<std::string>() : std::string();
}

std::optional<VolumeWithDevice> read(const json& object) {
  const json& status = at(object, "status");
  VolumeWithDevice volume;
  volume.device = text(status, "devicePath");
  volume.state = text(status, "state");
  if (at(status, "deviceID").is_null() && volume.device.empty() && volume.state.empty())
    return std::nullopt;
  volume.name = text(at(object, "metadata"), "name");
  volume.deleting = !text(at(object, "metadata"), "deletionTimestamp").empty();
  volume.node = text(at(object, "spec"), "nodeName");
  for (const json& condition : at(status, "conditions"))
    if (text(condition, "type") == "InUse" && text(condition, "status") == "True")
      volume.users = text(condition, "message");
  return volume;
}

// Nothing: the server forgot the list before its last page was read.
Result<std::optional<Found>> list(const kube::KubeClient& client, const kube::Cancel& cancel) {
  const kube::Resource volumes{"ublk.dev", "v1alpha1", "ublkvolumes", ""};
  Found found;
  std::string token;
  do {
    const auto page =
        client.get(volumes.path() + "?limit=500" +
                       (token.empty() ? "" : "&continue=" + kube::query_escape(token)),
                   cancel);
    if (page.err() == ENOENT) return std::optional<Found>{Found{}};
    if (page.err() == ESTALE) return std::optional<Found>{};
    if (!page) return page.error();
    for (const json& object : at(*page, "items"))
      if (auto volume = read(object)) found.push_back(std::move(*volume));
    token = text(at(*page, "metadata"), "continue");
  } while (!token.empty());
  return std::optional{std::move(found)};
}

std::string line(const VolumeWithDevice& volume) {
  std::string line = volume.name;
  if (!volume.node.empty()) line += " on " + volume.node;
  if (!volume.device.empty()) line += ", " + volume.device;
  if (!volume.state.empty()) line += ", " + volume.state;
  if (volume.deleting) line += ", being deleted";
  if (!volume.users.empty()) line += ": " + volume.users;
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line + "\n";
}

}  // namespace

Result<Found> volumes_with_device(const kube::KubeClient& client, const kube::Cancel& cancel) {
  for (int attempt = 0; attempt < attempts_max; ++attempt) {
    auto found = list(client, cancel);
    if (!found) return std::move(found).error();
    if (*found) return std::move(**found);
  }
  return Error{EAGAIN, "list", "ublkvolumes", "the API server forgot each list half way"};
}

std::string refusal(const Found& volumes) {
  std::string said;
  for (const auto& volume : volumes) said += line(volume);
  return said + "refused: " + std::to_string(volumes.size()) +
         (volumes.size() == 1 ? " volume still has a device" : " volumes still have devices") +
         " (listed above), which would be left without a server. Set spec.running to false for "
         "each: its device goes once nobody has it open, and object and data stay. Or delete it. "
         "Then uninstall again. To do without this check: helm uninstall --no-hooks\n";
}

}  // namespace ublk_operator::controller

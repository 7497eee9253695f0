#include "cli/output.h"

#include <array>
#include <cstdio>
#include <utility>

#include "cli/table.h"
#include "common/api/decode.h"
#include "common/api/quantity.h"

namespace ublk_operator {

std::string format_pause(std::chrono::microseconds pause) {
  std::array<char, 48> text{};
  const auto us = static_cast<double>(pause.count());
  if (pause.count() < 1000) {
    (void)std::snprintf(text.data(), text.size(), "%.0fus", us);
  } else if (pause.count() < 10'000) {
    (void)std::snprintf(text.data(), text.size(), "%.1fms", us / 1e3);
  } else if (pause.count() < 999'500) {
    (void)std::snprintf(text.data(), text.size(), "%.0fms", us / 1e3);
  } else {
    (void)std::snprintf(text.data(), text.size(), "%.2fs", us / 1e6);
  }
  return text.data();
}

std::string format_backend(const BackendSpec& backend) {
  if (const auto* file = std::get_if<FileBackendSpec>(&backend))
    return "file " + file->pool + "/" + file->path;
  return backend_kind(backend);
}

std::string format_size(const Volume& volume) {
  return format_quantity(volume.status.size_bytes != 0 ? volume.status.size_bytes
                                                       : volume.spec.size_bytes);
}

std::string condition_status(const Volume& volume, const std::string& type) {
  const Condition* found = find_condition(volume.status.conditions, type);
  return found != nullptr ? to_string(found->status) : "";
}

std::string condition_reason(const Volume& volume, const std::string& type) {
  const Condition* found = find_condition(volume.status.conditions, type);
  return found != nullptr ? found->reason : "";
}

void print_table(std::ostream& out, const std::vector<Volume>& volumes, bool wide, bool nodes) {
  std::vector<std::string> header{"NAME", "SIZE", "MODE", "STATE", "READY", "RECOVERIES", "DEVICE"};
  if (wide) {
    for (const char* name : {"PID", "GENERATION", "LAST-PAUSE", "REASON", "BACKEND"})
      header.emplace_back(name);
  }
  if (nodes) header.insert(header.begin() + 1, "NODE");
  Table table(std::move(header));
  for (const Volume& volume : volumes) {
    const VolumeStatus& status = volume.status;
    std::vector<std::string> row{volume.metadata.name,
                                 format_size(volume),
                                 to_string(volume.spec.recovery.mode),
                                 status.state,
                                 condition_status(volume, "Ready"),
                                 std::to_string(status.recovery_count),
                                 status.device_path};
    if (wide) {
      row.push_back(status.server_pid ? std::to_string(*status.server_pid) : "");
      row.push_back(std::to_string(status.lease_generation));
      row.push_back(status.last_recovery_duration ? format_pause(*status.last_recovery_duration)
                                                  : "");
      row.push_back(condition_reason(volume, "Ready"));
      row.push_back(format_backend(volume.spec.backend));
    }
    if (nodes) row.insert(row.begin() + 1, volume.spec.node_name);
    table.add(std::move(row));
  }
  table.print(out);
}

nlohmann::json as_list(nlohmann::json items) {
  return {{"apiVersion", "v1"}, {"kind", "List"}, {"items", std::move(items)}};
}

void print_document(std::ostream& out, const nlohmann::json& document, bool yaml) {
  if (yaml) {
    const std::string text = to_yaml(document);
    out << text;
    if (text.empty() || text.back() != '\n') out << "\n";
  } else {
    out << document.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  }
}

void print_found(std::ostream& out, size_t asked, nlohmann::json items, bool yaml) {
  if (asked != 1)
    print_document(out, as_list(std::move(items)), yaml);
  else if (!items.empty())
    print_document(out, items.front(), yaml);
}

}  // namespace ublk_operator

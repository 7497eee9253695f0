#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include "cli/commands.h"
#include "cli/output.h"
#include "cli/table.h"
#include "common/api/decode.h"
#include "common/api/quantity.h"

namespace ublk_operator {
namespace {

using Fields = std::vector<std::pair<std::string, std::string>>;

// "  Name:     value", values in one column.
void print_fields(std::ostream& out, const std::string& indent, const Fields& fields) {
  size_t width = 0;
  for (const auto& [name, value] : fields) width = std::max(width, name.size());
  for (const auto& [name, value] : fields) {
    out << indent << name << ":" << std::string(width - name.size() + 2, ' ')
        << (value.empty() ? "-" : printable(value)) << "\n";
  }
}

void print_rows(std::ostream& out, const std::string& title,
                const std::vector<std::vector<std::string>>& rows) {
  out << title << ":";
  if (rows.size() < 2) {
    out << "  none\n";
    return;
  }
  out << "\n";
  Table table({});
  for (std::vector<std::string> row : rows) {
    row.front() = "  " + (row.front().empty() ? "-" : row.front());
    table.add(std::move(row));
  }
  table.print(out);
}

std::string yes_no(bool value) { return value ? "true" : "false"; }

std::string octal(uint32_t mode) {
  std::array<char, 16> text{};
  (void)std::snprintf(text.data(), text.size(), "%04o", mode);
  return text.data();
}

std::string pairs(const std::map<std::string, std::string>& values) {
  std::string text;
  for (const auto& [key, value] : values) {
    if (!text.empty()) text += ", ";
    text += key;
    text += "=";
    text += value;
  }
  return text;
}

Fields spec_fields(const VolumeSpec& spec) {
  const RecoverySpec& recovery = spec.recovery;
  Fields fields;
  if (!spec.node_name.empty()) fields.emplace_back("Node", spec.node_name);
  fields.insert(fields.end(), {
                                  {"Size", format_quantity(spec.size_bytes)},
                                  {"Backend", format_backend(spec.backend)},
                              });
  if (const auto* file = std::get_if<FileBackendSpec>(&spec.backend)) {
    fields.emplace_back("Provisioning", to_string(file->provisioning));
    fields.emplace_back("Direct I/O", yes_no(file->direct_io));
  }
  fields.insert(
      fields.end(),
      {{"Recovery Mode", to_string(recovery.mode)},
       {"Recovery Deadline", recovery.deadline ? format_duration(*recovery.deadline) + ", then " +
                                                     to_string(recovery.on_deadline)
                                               : "none"},
       {"Restarts", std::to_string(recovery.max_restarts) + " in a row, back-off " +
                        format_duration(recovery.back_off.initial) + " to " +
                        format_duration(recovery.back_off.maximum)},
       {"Queues", std::to_string(spec.queues) + " of depth " + std::to_string(spec.queue_depth)},
       {"Max I/O Size", format_quantity(spec.max_io_bytes)},
       {"Logical Block Size", std::to_string(spec.logical_block_bytes)},
       {"Read Only", yes_no(spec.read_only)},
       {"Running", yes_no(spec.running)},
       {"Device", spec.device.owner + ":" + spec.device.group + " " + octal(spec.device.mode)},
       {"Reclaim Policy", to_string(spec.reclaim_policy)}});
  if (spec.fault_injection.latency.count() != 0) {
    fields.emplace_back("Fault Injection",
                        "latency " + format_duration(spec.fault_injection.latency));
  }
  return fields;
}

Fields status_fields(const VolumeStatus& status) {
  std::string last = "none";
  if (status.last_recovery_duration) {
    last = format_pause(*status.last_recovery_duration) + " at " + status.last_recovery_time;
    if (!status.last_recovery_reason.empty()) last += ", " + status.last_recovery_reason;
  }
  return {{"State", status.state},
          {"Device", status.device_path},
          {"Link", status.link_path},
          {"Size", status.size_bytes != 0 ? format_quantity(status.size_bytes) : ""},
          {"Server Pid", status.server_pid ? std::to_string(*status.server_pid) : ""},
          {"Lease Generation", std::to_string(status.lease_generation)},
          {"Observed Generation", std::to_string(status.observed_generation)},
          {"Recoveries", std::to_string(status.recovery_count)},
          {"Last Recovery", last}};
}

void print_counters(std::ostream& out, const VolumeStatus& status) {
  std::vector<std::vector<std::string>> rows = {{"OPERATION", "COUNT", "BYTES", "ERRORS"}};
  for (const auto& [operation, counters] : status.io) {
    rows.push_back({operation, std::to_string(counters.operations), std::to_string(counters.bytes),
                    std::to_string(counters.errors)});
  }
  print_rows(out, "I/O of the present server", rows);
  if (!status.io_errors.empty()) {
    rows = {{"ERROR", "COUNT"}};
    for (const auto& [name, count] : status.io_errors)
      rows.push_back({name, std::to_string(count)});
    print_rows(out, "I/O errors", rows);
  }
}

void describe(std::ostream& out, const Volume& volume, const std::vector<VolumeEvent>& events,
              bool counters) {
  print_fields(out, "",
               {{"Name", volume.metadata.name},
                {"UID", volume.metadata.uid},
                {"Generation", std::to_string(volume.metadata.generation)},
                {"Labels", pairs(volume.metadata.labels)},
                {"Annotations", pairs(volume.metadata.annotations)}});
  out << "Spec:\n";
  print_fields(out, "  ", spec_fields(volume.spec));
  out << "Status:\n";
  print_fields(out, "  ", status_fields(volume.status));

  std::vector<std::vector<std::string>> rows{{"TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"}};
  for (const Condition& condition : volume.status.conditions) {
    rows.push_back({condition.type, to_string(condition.status), condition.last_transition_time,
                    condition.reason, condition.message});
  }
  print_rows(out, "Conditions", rows);

  if (counters) print_counters(out, volume.status);
  rows = {{"LAST-SEEN", "TYPE", "REASON", "COUNT", "MESSAGE"}};
  for (const VolumeEvent& event : events) {
    rows.push_back({event.last_time, event.warning ? "Warning" : "Normal", event.reason,
                    std::to_string(event.count), event.message});
  }
  print_rows(out, "Events", rows);
}

}  // namespace

ExitCode describe_volumes(const Session& session, const DescribeOptions& options) {
  ExitCode code = ExitCode::ok;
  bool first = true;
  nlohmann::json items = nlohmann::json::array();
  for (const std::string& name : options.names) {
    const auto volume = session.service.get(name);
    if (!volume) {
      note(code, session.fail(volume.error()));
      if (volume.err() == ENOTCONN) break;
      continue;
    }
    const std::vector<VolumeEvent> events = session.service.events(name);
    if (options.output == "text") {
      if (!first) session.out << "\n\n";
      first = false;
      // Counters are not in a cluster's objects: they are metrics of the node.
      describe(session.out, *volume, events, !session.cluster);
      continue;
    }
    nlohmann::json item = to_json(*volume);
    item["events"] = nlohmann::json::array();
    for (const VolumeEvent& event : events) item["events"].push_back(to_json(event));
    items.push_back(std::move(item));
  }
  if (options.output != "text")
    print_found(session.out, options.names.size(), std::move(items), options.output == "yaml");
  return code;
}

}  // namespace ublk_operator

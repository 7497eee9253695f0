#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iterator>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

#include "cli/commands.h"
#include "cli/output.h"
#include "cli/table.h"
#include "common/api/decode.h"
#include "common/api/quantity.h"
#include "common/localapi/wait.h"

namespace ublk_operator {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<std::string> row_of(const VolumeEvent& event, bool wide) {
  std::vector<std::string> row{
      event.last_time, event.warning ? "Warning" : "Normal", event.reason,
      event.volume,    std::to_string(event.count),          event.message};
  if (wide) row.insert(row.begin(), event.first_time);
  return row;
}

std::vector<std::string> header(bool wide) {
  std::vector<std::string> names{"LAST-SEEN", "TYPE", "REASON", "VOLUME", "COUNT", "MESSAGE"};
  if (wide) names.insert(names.begin(), "FIRST-SEEN");
  return names;
}

// Tells the events that were not yet shown, or that happened again since.
class Unseen {
 public:
  std::vector<VolumeEvent> take(std::vector<VolumeEvent> events) {
    std::vector<VolumeEvent> fresh;
    std::map<Key, uint64_t> present;  // what the agent forgot is forgotten here too
    for (VolumeEvent& event : events) {
      const Key key{event.volume, event.reason, event.message, event.first_time};
      const auto seen = counts_.find(key);
      present[key] = event.count;
      if (seen == counts_.end() || seen->second != event.count) fresh.push_back(std::move(event));
    }
    counts_ = std::move(present);
    return fresh;
  }

 private:
  struct Key {
    std::string volume, reason, message, first_time;
    auto operator<=>(const Key&) const = default;
  };
  std::map<Key, uint64_t> counts_;
};

// A line as soon as it is known, so columns have fixed widths that suit most; the last has none.
void print_line(std::ostream& out, const std::vector<std::string>& cells) {
  static constexpr size_t widths[] = {20, 20, 7, 20, 16, 5};
  std::string line;
  size_t column = std::size(widths) + 1 - cells.size();
  for (size_t i = 0; i < cells.size(); ++i, ++column) {
    std::string cell = cells[i].empty() ? "-" : printable(cells[i]);
    if (column < std::size(widths)) cell.resize(std::max(cell.size(), widths[column]), ' ');
    line += (i == 0 ? "" : "   ") + cell;
  }
  out << line << "\n";
}

ExitCode follow(const Session& session, const EventsOptions& options) {
  auto deadline = Clock::time_point::max();
  if (!options.timeout.empty()) {
    const auto timeout = parse_duration(options.timeout);
    if (!timeout) return session.fail(timeout.error());
    deadline = Clock::now() + *timeout;
  }
  if (options.output == "yaml")
    return session.fail_usage("events: --watch prints table or json, not yaml");

  std::mutex mutex;
  std::condition_variable changed;
  bool dirty = true;  // under mutex
  const uint64_t watch =
      session.service.watch([&](const std::string& name, const std::optional<Volume>&) {
        if (!options.name.empty() && name != options.name) return;
        const std::lock_guard lock(mutex);
        dirty = true;
        changed.notify_one();
      });
  if (const auto reached = session.service.reachable(); !reached)
    return session.fail(reached.error());

  Unseen unseen;
  bool lost = false;
  const bool wide = options.output == "wide";
  if (options.output != "json") print_line(session.out, header(wide));
  while (session.out.good()) {
    {
      std::unique_lock lock(mutex);
      const auto woken = [&] { return dirty; };
      const auto until = lost ? std::min(deadline, Clock::now() + ask_again) : deadline;
      if (until == Clock::time_point::max()) {
        changed.wait(lock, woken);
      } else if (!changed.wait_until(lock, until, woken) && until == deadline) {
        break;
      }
      dirty = false;
    }
    std::vector<VolumeEvent> events = session.service.events(options.name);
    const auto reached = session.service.reachable();
    lost = !reached;
    if (lost && !may_pass(reached.error())) {
      session.service.unwatch(watch);
      return session.fail(reached.error());
    }
    if (lost) continue;
    for (const VolumeEvent& event : unseen.take(std::move(events))) {
      if (options.output == "json") {
        session.out << to_json(event).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                    << "\n";
      } else {
        print_line(session.out, row_of(event, wide));
      }
    }
    session.out.flush();
  }
  session.service.unwatch(watch);
  return ExitCode::ok;
}

}  // namespace

ExitCode show_events(const Session& session, const EventsOptions& options) {
  if (options.watch) return follow(session, options);
  const std::vector<VolumeEvent> events = session.service.events(options.name);
  if (const auto reached = session.service.reachable(); !reached)
    return session.fail(reached.error());
  if (events.empty() && !options.name.empty()) {
    // A deleted volume may still have events, but one without any should at least exist.
    if (const auto volume = session.service.get(options.name); !volume)
      return session.fail(volume.error());
  }
  const bool wide = options.output == "wide";
  if (options.output == "table" || wide) {
    if (events.empty()) {
      session.err << "No events found.\n";
      return ExitCode::ok;
    }
    Table table(header(wide));
    for (const VolumeEvent& event : events) table.add(row_of(event, wide));
    table.print(session.out);
    return ExitCode::ok;
  }
  nlohmann::json items = nlohmann::json::array();
  for (const VolumeEvent& event : events) items.push_back(to_json(event));
  print_document(session.out, as_list(std::move(items)), options.output == "yaml");
  return ExitCode::ok;
}

}  // namespace ublk_operator

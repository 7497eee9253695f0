// How volumes and events are shown.
#pragma once
#include <chrono>
#include <ostream>
#include <string>
#include <vector>

#include "common/api/volume.h"
#include "nlohmann/json.hpp"

namespace ublk_operator {

// -o table: NAME SIZE MODE STATE READY RECOVERIES DEVICE; wide adds PID GENERATION LAST-PAUSE
// REASON BACKEND. `nodes`: NODE after NAME.
void print_table(std::ostream& out, const std::vector<Volume>& volumes, bool wide,
                 bool nodes = false);

// -o json: two blanks of indentation; -o yaml. What is one is shown bare, several as a v1 List, as
// kubectl does.
void print_document(std::ostream& out, const nlohmann::json& document, bool yaml);
[[nodiscard]] nlohmann::json as_list(nlohmann::json items);
// What was found of `asked` volumes by name (0: of all): bare when one was asked for, and then
// maybe nothing.
void print_found(std::ostream& out, size_t asked, nlohmann::json items, bool yaml);

// "41ms", "1.24s", "850us": three digits are enough for people.
[[nodiscard]] std::string format_pause(std::chrono::microseconds pause);
// "file default/pg.img", "null".
[[nodiscard]] std::string format_backend(const BackendSpec& backend);
// The size of the device as it is, else as it is wanted.
[[nodiscard]] std::string format_size(const Volume& volume);

// "True"; empty when there is no such condition.
[[nodiscard]] std::string condition_status(const Volume& volume, const std::string& type);
[[nodiscard]] std::string condition_reason(const Volume& volume, const std::string& type);

}  // namespace ublk_operator

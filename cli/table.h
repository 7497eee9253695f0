// Table: left-aligned columns, three blanks between them, none at the ends of lines.
#pragma once
#include <ostream>
#include <string>
#include <vector>

namespace ublk_operator {

class Table {
 public:
  explicit Table(std::vector<std::string> header);  // empty: none is printed
  // An empty cell is shown as "-". Control characters are shown as '?': what comes from the agent
  // may hold a backend's raw text, and a terminal obeys it.
  void add(std::vector<std::string> row);
  void print(std::ostream& out) const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// Text as one line that is safe for a terminal.
[[nodiscard]] std::string printable(std::string text);

}  // namespace ublk_operator

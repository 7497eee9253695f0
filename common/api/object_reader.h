// ObjectReader: takes the fields of one object by name and type, and says what is wrong with them.
// Shape    every field that may occur is asked for, present or not; finish() then knows the unknown
//          ones, and which name was probably meant. A field that is absent or null leaves its
//          target untouched, and so does a wrong one.
// Errors   collected in a ProblemList; a reader never stops at the first.
// Threads  one.
#pragma once
#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "common/api/decode.h"
#include "common/api/tree.h"

namespace ublk_operator {

// The problems of one document, at most `problems_max`: a file of garbage has too many to read.
class ProblemList {
 public:
  static constexpr size_t problems_max = 100;

  explicit ProblemList(std::string file) : file_(std::move(file)) {}
  void add(Position at, std::string field, std::string message);
  [[nodiscard]] bool empty() const { return problems_.empty(); }
  [[nodiscard]] bool full() const { return problems_.size() > problems_max; }
  // In the order of the file.
  [[nodiscard]] std::vector<Problem> take();

 private:
  std::string file_;
  std::vector<Problem> problems_;
};

// A value as a message may show it: in quotes, control characters replaced, cut at 60 characters.
[[nodiscard]] std::string show(std::string_view text);
// "a, b or c"
[[nodiscard]] std::string list_of(const std::vector<std::string>& names);
// " (did you mean 'b'?)", or nothing.
[[nodiscard]] std::string did_you_mean(std::string_view word,
                                       const std::vector<std::string>& names);

class ObjectReader {
 public:
  // `tree` is an object. `at`: where to say that a field is missing.
  ObjectReader(const Tree& tree, Position at, std::string path, ProblemList& problems);

  // The field when it is there and not null; from then on its name counts as known.
  [[nodiscard]] const Member* find(const std::string& name);
  // The same, with null included.
  [[nodiscard]] const Member* find_or_null(const std::string& name);
  [[nodiscard]] bool has(const std::string& name) const;
  // Names that may stand here and mean nothing to us.
  void ignore(const std::vector<std::string>& names);

  // A reader of the field's fields; nothing when it is absent or no object.
  [[nodiscard]] std::optional<ObjectReader> object(const std::string& name);
  // The items of a list.
  [[nodiscard]] std::vector<TreePtr> list(const std::string& name);

  // True: the field was there and right.
  bool string(const std::string& name, std::string& value);
  bool boolean(const std::string& name, bool& value);
  bool whole_number(const std::string& name, uint64_t least, uint64_t most, uint64_t& value);
  bool whole_number(const std::string& name, uint32_t least, uint32_t most, uint32_t& value);
  bool signed_number(const std::string& name, int64_t least, int64_t& value);
  bool quantity(const std::string& name, uint64_t& bytes);
  bool duration(const std::string& name, std::chrono::milliseconds& value);
  void string_map(const std::string& name, std::map<std::string, std::string>& values);

  template <typename Enum, size_t n>
  bool choice(const std::string& name, const std::array<Enum, n>& values, Enum& value) {
    std::vector<std::string> names;
    names.reserve(n);
    for (const Enum candidate : values) names.emplace_back(to_string(candidate));
    const std::optional<size_t> chosen = index_of(name, names);
    if (chosen) value = values.at(*chosen);
    return chosen.has_value();
  }

  // A scalar's text, when it can serve as a string.
  bool string_of(const Tree& tree, Position at, const std::string& field, std::string& value);

  void problem(const std::string& name, const std::string& message);  // at the field
  void missing(const std::string& name, const std::string& expected);
  [[nodiscard]] std::string path_of(const std::string& name) const;

  // Reports the fields nobody asked for.
  void finish();

 private:
  std::optional<size_t> index_of(const std::string& name, const std::vector<std::string>& names);
  // The field as a scalar; reports anything else as "is a list; expected ...".
  const Tree* scalar(const std::string& name, const std::string& expected);

  const Tree* tree_;
  Position at_;
  std::string path_;
  ProblemList* problems_;
  std::vector<std::string> known_;  // in the order asked for, which is that of the documentation
  std::set<std::string, std::less<>> ignored_;
};

// Reports every field that is set twice, anywhere in the document.
void find_duplicates(const Tree& tree, const std::string& path, ProblemList& problems);

}  // namespace ublk_operator

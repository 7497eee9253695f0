#include "common/api/object_reader.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <map>
#include <utility>

#include "common/api/quantity.h"
#include "common/base/strings.h"

namespace ublk_operator {
namespace {

// Longer words are no typing mistakes, and the edit distance takes time.
constexpr size_t kGuessableMax = 64;

std::string join_path(const std::string& path, const std::string& name) {
  constexpr size_t name_max = 60;
  std::string shown = show(name);
  shown = shown.substr(1, shown.size() - 2);
  if (name.size() <= name_max && (name.find('.') != std::string::npos || name.empty())) {
    shown = "'" + shown + "'";
  }
  return path.empty() ? shown : path + "." + shown;
}

// Decimal digits only: no sign, no "0x", no "1_000", no leading zero, which YAML 1.1 reads as
// octal.
bool parse_whole(const std::string& text, uint64_t& value) {
  if (text.empty() || (text.size() > 1 && text[0] == '0')) return false;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end;
}

std::string bounds(uint64_t least, uint64_t most) {
  if (most >= std::numeric_limits<int64_t>::max()) {
    return "a whole number from " + std::to_string(least);
  }
  return "a whole number from " + std::to_string(least) + " to " + std::to_string(most);
}

}  // namespace

std::string show(std::string_view text) {
  constexpr size_t shown_max = 60;
  std::string shown = "'";
  size_t length = std::min(text.size(), shown_max);
  // Not in the middle of a UTF-8 character.
  while (length < text.size() && length > 0 &&
         (static_cast<unsigned char>(text[length]) & 0xc0) == 0x80) {
    --length;
  }
  for (const char c : text.substr(0, length)) {
    shown += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  }
  return shown + (length < text.size() ? "...'" : "'");
}

std::string list_of(const std::vector<std::string>& names) {
  if (names.size() < 2) return join(names, "");
  const std::vector<std::string> first(names.begin(), names.end() - 1);
  return join(first, ", ") + " or " + names.back();
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& names) {
  if (word.size() > kGuessableMax) return "";
  const std::string guess = nearest(word, names);
  return guess.empty() ? "" : " (did you mean '" + guess + "'?)";
}

void ProblemList::add(Position at, std::string field, std::string message) {
  if (full()) return;
  if (problems_.size() == problems_max) {
    problems_.push_back({file_, at.line, at.column, "", "too many problems to list them all"});
    return;
  }
  // Kept in the order of the file; those of one place in the order in which they were found.
  const auto after = std::upper_bound(
      problems_.begin(), problems_.end(), at, [](Position place, const Problem& problem) {
        return std::pair(place.line, place.column) < std::pair(problem.line, problem.column);
      });
  problems_.insert(after, {file_, at.line, at.column, std::move(field), std::move(message)});
}

std::vector<Problem> ProblemList::take() { return std::exchange(problems_, {}); }

ObjectReader::ObjectReader(const Tree& tree, Position at, std::string path, ProblemList& problems)
    : tree_(&tree), at_(at), path_(std::move(path)), problems_(&problems) {}

std::string ObjectReader::path_of(const std::string& name) const { return join_path(path_, name); }

bool ObjectReader::has(const std::string& name) const {
  return std::any_of(tree_->members.begin(), tree_->members.end(), [&](const Member& member) {
    return member.key == name && member.value->kind != Tree::Kind::null;
  });
}

const Member* ObjectReader::find_or_null(const std::string& name) {
  if (std::find(known_.begin(), known_.end(), name) == known_.end()) known_.push_back(name);
  const auto found = std::find_if(tree_->members.begin(), tree_->members.end(),
                                  [&](const Member& member) { return member.key == name; });
  return found == tree_->members.end() ? nullptr : &*found;
}

const Member* ObjectReader::find(const std::string& name) {
  const Member* member = find_or_null(name);
  if (member == nullptr || member->value->kind != Tree::Kind::null) return member;
  if (member->value->cut_off) {
    problems_->add(member->at, path_of(name),
                   "has no value, and the file ends here: is it cut off? Write null when that is "
                   "meant");
  }
  return nullptr;
}

void ObjectReader::ignore(const std::vector<std::string>& names) {
  ignored_.insert(names.begin(), names.end());
}

void ObjectReader::problem(const std::string& name, const std::string& message) {
  const auto found = std::find_if(tree_->members.begin(), tree_->members.end(),
                                  [&](const Member& member) { return member.key == name; });
  problems_->add(found == tree_->members.end() ? at_ : found->value->at, path_of(name), message);
}

void ObjectReader::missing(const std::string& name, const std::string& expected) {
  problems_->add(at_, path_of(name), "is missing; expected " + expected);
}

std::optional<ObjectReader> ObjectReader::object(const std::string& name) {
  const Member* member = find(name);
  if (member == nullptr) return std::nullopt;
  if (member->value->kind != Tree::Kind::object) {
    problem(name, "is " + describe(*member->value) + "; expected an object");
    return std::nullopt;
  }
  return ObjectReader(*member->value, member->at, path_of(name), *problems_);
}

std::vector<TreePtr> ObjectReader::list(const std::string& name) {
  const Member* member = find(name);
  if (member == nullptr) return {};
  if (member->value->kind == Tree::Kind::array) return member->value->items;
  problem(name, "is " + describe(*member->value) + "; expected a list");
  return {};
}

const Tree* ObjectReader::scalar(const std::string& name, const std::string& expected) {
  const Member* member = find(name);
  if (member == nullptr) return nullptr;
  if (member->value->kind == Tree::Kind::scalar) return member->value.get();
  problem(name, "is " + describe(*member->value) + "; expected " + expected);
  return nullptr;
}

bool ObjectReader::string_of(const Tree& tree, Position at, const std::string& field,
                             std::string& value) {
  if (tree.kind != Tree::Kind::scalar) {
    problems_->add(at, field, "is " + describe(tree) + "; expected a string");
    return false;
  }
  // Kubernetes refuses these as strings, and what reads `on` as `true` differs between programs.
  if (!tree.quoted && (is_number_word(tree.text) || is_bool_word(tree.text))) {
    const std::string shown = show(tree.text);
    problems_->add(
        at, field,
        shown + " is " + describe(tree) + " in YAML; expected a string: put it in quotes");
    return false;
  }
  value = tree.text;
  return true;
}

bool ObjectReader::string(const std::string& name, std::string& value) {
  const Member* member = find(name);
  return member != nullptr && string_of(*member->value, member->value->at, path_of(name), value);
}

bool ObjectReader::boolean(const std::string& name, bool& value) {
  const Tree* tree = scalar(name, "true or false");
  if (tree == nullptr) return false;
  const std::string& text = tree->text;
  const bool yes = text == "true" || text == "True" || text == "TRUE";
  const bool no = text == "false" || text == "False" || text == "FALSE";
  if (tree->quoted && (yes || no)) {
    problem(name, "is a string; expected true or false without quotes");
    return false;
  }
  if (!yes && !no) {
    const bool old_yes = is_bool_word(text) && (text[0] == 'y' || text[0] == 'Y' || text == "on" ||
                                                text == "On" || text == "ON");
    std::string guess = did_you_mean(text, {"true", "false"});
    if (is_bool_word(text))
      guess = old_yes ? " (did you mean 'true'?)" : " (did you mean 'false'?)";
    problem(name, "unknown value " + show(text) + "; expected true or false" + guess);
    return false;
  }
  value = yes;
  return true;
}

bool ObjectReader::whole_number(const std::string& name, uint64_t least, uint64_t most,
                                uint64_t& value) {
  const std::string expected = bounds(least, most);
  const Tree* tree = scalar(name, expected);
  if (tree == nullptr) return false;
  uint64_t parsed = 0;
  const bool whole = parse_whole(tree->text, parsed);
  if (tree->quoted && whole) {
    problem(name, "is a string; expected " + expected + ", without quotes");
    return false;
  }
  if (!whole || parsed < least || parsed > most) {
    problem(name, show(tree->text) + " is not " + expected);
    return false;
  }
  value = parsed;
  return true;
}

bool ObjectReader::whole_number(const std::string& name, uint32_t least, uint32_t most,
                                uint32_t& value) {
  uint64_t wide = 0;
  if (!whole_number(name, uint64_t{least}, uint64_t{most}, wide)) return false;
  value = static_cast<uint32_t>(wide);
  return true;
}

bool ObjectReader::signed_number(const std::string& name, int64_t least, int64_t& value) {
  uint64_t wide = 0;
  if (!whole_number(name, static_cast<uint64_t>(least), std::numeric_limits<int64_t>::max(),
                    wide)) {
    return false;
  }
  value = static_cast<int64_t>(wide);
  return true;
}

bool ObjectReader::quantity(const std::string& name, uint64_t& bytes) {
  const Tree* tree = scalar(name, "a quantity such as 10Gi");
  if (tree == nullptr) return false;
  const auto parsed = parse_quantity(tree->text);
  if (!parsed) {
    problem(name, show(tree->text) + " " + parsed.error().detail);
    return false;
  }
  bytes = *parsed;
  return true;
}

bool ObjectReader::duration(const std::string& name, std::chrono::milliseconds& value) {
  const Tree* tree = scalar(name, "a duration such as 30s");
  if (tree == nullptr) return false;
  const auto parsed = parse_duration(tree->text);
  if (!parsed) {
    problem(name, show(tree->text) + " " + parsed.error().detail);
    return false;
  }
  value = *parsed;
  return true;
}

void ObjectReader::string_map(const std::string& name, std::map<std::string, std::string>& values) {
  const auto reader = object(name);
  if (!reader) return;
  for (const Member& member : reader->tree_->members) {
    if (member.value->kind == Tree::Kind::null) continue;
    std::string value;
    if (string_of(*member.value, member.value->at, reader->path_of(member.key), value)) {
      values[member.key] = value;
    }
  }
}

std::optional<size_t> ObjectReader::index_of(const std::string& name,
                                             const std::vector<std::string>& names) {
  const Tree* tree = scalar(name, list_of(names));
  if (tree == nullptr) return std::nullopt;
  const auto found = std::find(names.begin(), names.end(), tree->text);
  if (found != names.end()) return static_cast<size_t>(found - names.begin());
  problem(name, "unknown value " + show(tree->text) + "; expected " + list_of(names) +
                    did_you_mean(tree->text, names));
  return std::nullopt;
}

void ObjectReader::finish() {
  for (const Member& member : tree_->members) {
    if (problems_->full()) return;
    if (ignored_.count(member.key) != 0 ||
        std::find(known_.begin(), known_.end(), member.key) != known_.end()) {
      continue;
    }
    const std::string guess = did_you_mean(member.key, known_);
    problems_->add(member.at, path_of(member.key),
                   "unknown field" + (guess.empty() ? "; expected " + list_of(known_) : guess));
  }
}

void find_duplicates(const Tree& tree, const std::string& path,  // NOLINT(misc-no-recursion)
                     ProblemList& problems) {
  std::map<std::string_view, int> lines;
  for (const Member& member : tree.members) {
    const auto [first, added] = lines.emplace(member.key, member.at.line);
    if (!added) {
      problems.add(member.at, join_path(path, member.key),
                   "is set twice; first in line " + std::to_string(first->second));
    }
    find_duplicates(*member.value, join_path(path, member.key), problems);
  }
  for (size_t i = 0; i < tree.items.size(); ++i) {
    find_duplicates(*tree.items[i], path + "[" + std::to_string(i) + "]", problems);
  }
}

}  // namespace ublk_operator

#include "common/api/tree.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

namespace ublk_operator {
namespace {

constexpr std::string_view kDigits = "0123456789";

bool all_of(std::string_view text, std::string_view allowed) {
  return !text.empty() && text.find_first_not_of(allowed) == std::string_view::npos;
}

// 12, 1.5, .5, 1e3, 1.5e-3, 1_000
bool is_decimal(std::string_view text) {
  constexpr std::string_view digits = "0123456789_";
  const size_t whole = std::min(text.find_first_not_of(digits), text.size());
  size_t end = whole;
  const auto underscores =
      std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(whole), '_');
  size_t count = whole - static_cast<size_t>(underscores);
  if (end < text.size() && text[end] == '.') {
    const size_t begin = ++end;
    end = std::min(text.find_first_not_of(digits, begin), text.size());
    count += end - begin;
  }
  if (count == 0 || text.front() == '_') return false;
  if (end == text.size()) return true;
  if (text[end] != 'e' && text[end] != 'E') return false;
  std::string_view exponent = text.substr(end + 1);
  if (!exponent.empty() && (exponent[0] == '+' || exponent[0] == '-')) exponent.remove_prefix(1);
  return all_of(exponent, kDigits);
}

std::string lower(std::string word) {
  std::transform(word.begin(), word.end(), word.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return word;
}

}  // namespace

bool is_number_word(const std::string& word) {
  std::string_view text = word;
  if (text.empty()) return false;
  if (text[0] == '+' || text[0] == '-') text.remove_prefix(1);
  const std::string folded = lower(std::string(text.substr(0, 5)));
  if (folded == ".inf" || folded == ".nan") return true;
  if (text.substr(0, 2) == "0x") return all_of(text.substr(2), "0123456789abcdefABCDEF_");
  if (text.substr(0, 2) == "0o") return all_of(text.substr(2), "01234567_");
  if (text.substr(0, 2) == "0b") return all_of(text.substr(2), "01_");
  return is_decimal(text);
}

bool is_bool_word(const std::string& word) {
  if (word.size() > 5) return false;
  static constexpr std::array<const char*, 8> words = {"true", "false", "yes", "no",
                                                       "on",   "off",   "y",   "n"};
  const std::string folded = lower(word);
  return std::any_of(words.begin(), words.end(),
                     [&](const char* candidate) { return folded == candidate; });
}

bool is_null_word(const std::string& word) {
  return word.empty() || word == "~" || word == "null" || word == "Null" || word == "NULL";
}

std::string describe(const Tree& tree) {
  switch (tree.kind) {
    case Tree::Kind::null:
      return "null";
    case Tree::Kind::array:
      return "a list";
    case Tree::Kind::object:
      return "an object";
    case Tree::Kind::scalar:
      break;
  }
  if (tree.quoted) return "a string";
  if (is_number_word(tree.text)) return "a number";
  return is_bool_word(tree.text) ? "a boolean" : "a string";
}

}  // namespace ublk_operator

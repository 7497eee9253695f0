// Tree: a document after its syntax is understood and before its meaning is. YAML and JSON both
// become this, so that one set of rules serves both.
// Shape    immutable once built and shared: a YAML alias is the same node again, so a tree takes no
//          more memory than its text, however large it is when expanded.
// Threads  plain values.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace ublk_operator {

struct Tree;
using TreePtr = std::shared_ptr<const Tree>;

// Where something stands in its file; 1-based, 0: unknown (JSON has no positions).
struct Position {
  int line = 0;
  int column = 0;
};

struct Member {
  std::string key;
  Position at;
  TreePtr value;
};

struct Tree {
  enum class Kind { null, scalar, array, object };
  Kind kind = Kind::null;
  Position at;
  // scalar: its text as written ("0660" stays "0660"), and whether it can only be a string: a
  // number, a boolean and a word in YAML without quotes are all "not quoted".
  std::string text;
  bool quoted = false;
  // What a file that is still being written looks like. null: nothing was written, and nothing
  // follows it in the file. scalar without quotes: the file ends within its line, so that the rest
  // of the word may be missing.
  bool cut_off = false;
  std::vector<TreePtr> items;   // array
  std::vector<Member> members;  // object, as written: a key may occur twice
  size_t nodes = 1;             // of this tree with aliases expanded, itself included
  size_t height = 1;            // levels below and including this one
};

// "a list", "an object", "a string", "a number": for messages.
[[nodiscard]] std::string describe(const Tree& tree);

// Whether YAML 1.1 or 1.2 (programs in use read either) take this word without quotes for something
// else than a string.
[[nodiscard]] bool is_number_word(const std::string& word);
[[nodiscard]] bool is_bool_word(const std::string& word);
[[nodiscard]] bool is_null_word(const std::string& word);

}  // namespace ublk_operator

#include "common/api/yaml_tree.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <array>
#include <map>
#include <sstream>
#include <utility>
#include <vector>

#include "common/base/limits.h"

namespace ublk_operator {
namespace {

// Thrown through yaml-cpp's parser to end it; caught in read_yaml.
struct Stop {
  YamlError error;
};

Position position_of(const YAML::Mark& mark) { return {mark.line + 1, mark.column + 1}; }

Position position_at(std::string_view text, size_t offset) {
  const std::string_view before = text.substr(0, offset);
  const size_t line_begin = before.rfind('\n') + 1;  // npos + 1 is 0
  return {static_cast<int>(std::count(before.begin(), before.end(), '\n')) + 1,
          static_cast<int>(offset - line_begin) + 1};
}

// Builds the tree of one document from the parser's events.
class TreeBuilder : public YAML::EventHandler {
 public:
  explicit TreeBuilder(std::string_view text) : text_(text) {}

  // Ready for the next document. The nodes that aliases stand for are counted over the whole file:
  // otherwise many small documents could each hold a bomb just below the limit.
  void reset() {
    frames_.clear();
    anchors_.clear();
    root_.reset();
    nodes_ = 0;
  }
  [[nodiscard]] TreePtr root() const { return root_; }

  // After an error: closes what is open and returns what there is.
  TreePtr partial() {
    while (!frames_.empty()) close();
    return root_;
  }

  // After some errors yaml-cpp reads the same place as one empty document after another, without
  // end.
  void OnDocumentStart(const YAML::Mark& mark) override {
    if (mark.pos <= last_document_) {
      stop(position_of(mark), "not valid YAML: text that belongs to no document");
    }
    last_document_ = mark.pos;
  }
  void OnDocumentEnd() override {}

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    // yaml-cpp does not say what was written: `null`, `~` or nothing. As a key it matters (the
    // backend called null), and as a value "nothing" may mean that the file is cut off.
    const std::string word = word_at(mark);
    Tree tree;
    tree.at = position_of(mark);
    if (at_key()) {
      tree.kind = Tree::Kind::scalar;
      tree.text = word;
    } else if (word.empty()) {
      if (at_value() && !mark.is_null() && mark.pos <= frames_.back().key_offset) {
        stop(frames_.back().tree.members.back().at, "not valid YAML: a ':' is missing after '" +
                                                        shown(last_key()) +
                                                        "' (is the file cut off here?)");
      }
      tree.cut_off = blank_from(mark);
    }
    add(std::move(tree), anchor, mark.pos);
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    Tree tree;
    tree.kind = Tree::Kind::scalar;
    tree.at = position_of(mark);
    tree.text = value;
    tree.quoted = is_string_tag(tag, mark);
    if (!is_closed(mark)) {
      stop(position_of(mark),
           "not valid YAML: a quoted text without its end: is the file cut off?");
    }
    tree.cut_off = !tree.quoted && mark.pos >= 0 &&
                   static_cast<size_t>(mark.pos) + value.size() == text_.size();
    add(std::move(tree), anchor, mark.pos);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) stop(position_of(mark), "an alias inside of what it stands for");
    const TreePtr& target = found->second;
    if (target->nodes > limits::yaml_nodes_max - alias_nodes_) {
      stop(position_of(mark),
           "aliases expand to more than " + std::to_string(limits::yaml_nodes_max) + " nodes");
    }
    alias_nodes_ += target->nodes;
    if (frames_.size() + target->height > limits::yaml_depth_max) too_deep(position_of(mark));
    if (at_key() && target->kind != Tree::Kind::scalar) wrong_key(mark);
    count(target->nodes, position_of(mark));
    put(target, mark.pos);
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(mark, Tree::Kind::array, tag, "seq", anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    open(mark, Tree::Kind::object, tag, "map", anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  // A collection that is still open.
  struct Frame {
    Tree tree;
    YAML::anchor_t anchor = 0;
    bool has_key = false;  // object: the last member waits for its value
    int key_offset = 0;    // where that key begins in the text
  };

  [[noreturn]] static void stop(Position at, std::string message) {
    throw Stop{{at, std::move(message), nullptr}};
  }
  [[noreturn]] static void too_deep(Position at) {
    stop(at, "nested deeper than " + std::to_string(limits::yaml_depth_max));
  }
  [[noreturn]] static void wrong_key(const YAML::Mark& mark) {
    stop(position_of(mark),
         "a list or an object as a key; expected a field name (is a '}' or ']' missing?)");
  }

  static std::string shown(const std::string& key) {
    constexpr size_t shown_max = 60;
    return key.size() <= shown_max ? key : key.substr(0, shown_max) + "...";
  }

  [[nodiscard]] bool at_key() const {
    return !frames_.empty() && frames_.back().tree.kind == Tree::Kind::object &&
           !frames_.back().has_key;
  }
  [[nodiscard]] bool at_value() const { return !frames_.empty() && frames_.back().has_key; }
  [[nodiscard]] const std::string& last_key() const {
    return frames_.back().tree.members.back().key;
  }

  // The null word at the mark; empty when something else, or nothing, stands there.
  [[nodiscard]] std::string word_at(const YAML::Mark& mark) const {
    if (mark.pos < 0 || static_cast<size_t>(mark.pos) > text_.size()) return "";
    const std::string_view rest = text_.substr(static_cast<size_t>(mark.pos));
    constexpr std::array<std::string_view, 4> words = {"null", "Null", "NULL", "~"};
    for (const std::string_view word : words) {
      if (rest.substr(0, word.size()) != word) continue;
      const std::string_view next = rest.substr(word.size());
      // The mark of a value that was not written is that of what follows, which may be a key that
      // begins like this.
      if (at_value() && is_key_end(next)) return "";
      return std::string(word);
    }
    return "";
  }
  static bool is_key_end(std::string_view rest) {
    const size_t colon = std::min(rest.find_first_not_of(' '), rest.size());
    return colon < rest.size() && rest[colon] == ':';
  }

  [[nodiscard]] bool blank_from(const YAML::Mark& mark) const {
    if (mark.pos < 0 || static_cast<size_t>(mark.pos) >= text_.size()) return true;
    return text_.find_first_not_of(" \t\r\n", static_cast<size_t>(mark.pos)) ==
           std::string_view::npos;
  }

  // False: the scalar at the mark begins with a quote that nothing closes. yaml-cpp takes the end
  // of the file for the closing quote when it follows a line end.
  [[nodiscard]] bool is_closed(const YAML::Mark& mark) const {
    size_t at = static_cast<size_t>(std::max(mark.pos, 0));
    const auto next = [&] { return at < text_.size() ? text_[at] : '\0'; };
    while (next() == '!' || next() == '&') {  // a tag, an anchor
      at = std::min(text_.find_first_of(" \t\r\n", at), text_.size());
      at = std::min(text_.find_first_not_of(" \t\r\n", at), text_.size());
    }
    const char quote = next();
    if (quote != '"' && quote != '\'') return true;
    for (++at; at < text_.size(); ++at) {
      if (quote == '"' && text_[at] == '\\') {
        ++at;
      } else if (text_[at] == quote) {
        if (quote == '"' || at + 1 == text_.size() || text_[at + 1] != quote) return true;
        ++at;  // '' within single quotes
      }
    }
    return false;
  }

  static bool is_string_tag(const std::string& tag, const YAML::Mark& mark) {
    const std::string prefix = "tag:yaml.org,2002:";
    if (tag.empty() || tag == "?") return false;
    if (tag == "!" || tag == prefix + "str") return true;
    if (tag == prefix + "int" || tag == prefix + "bool" || tag == prefix + "float") return false;
    stop(position_of(mark), "the tag '" + shown(tag) + "'; expected a value without a tag");
  }

  void count(size_t nodes, Position at) {
    if (nodes > limits::yaml_nodes_max - nodes_) {
      stop(at, "more than " + std::to_string(limits::yaml_nodes_max) + " nodes in a document");
    }
    nodes_ += nodes;
  }

  void open(const YAML::Mark& mark, Tree::Kind kind, const std::string& tag, const char* own_tag,
            YAML::anchor_t anchor) {
    if (at_key()) wrong_key(mark);
    if (!tag.empty() && tag != "?" && tag != "!" &&
        tag != std::string("tag:yaml.org,2002:") + own_tag) {
      stop(position_of(mark), "the tag '" + shown(tag) + "'; expected a value without a tag");
    }
    if (frames_.size() + 1 > limits::yaml_depth_max) too_deep(position_of(mark));
    count(1, position_of(mark));
    Frame frame;
    frame.tree.kind = kind;
    frame.tree.at = position_of(mark);
    frame.anchor = anchor;
    frames_.push_back(std::move(frame));
  }

  void close() {
    Frame frame = std::move(frames_.back());
    frames_.pop_back();
    if (frame.has_key) {  // only after an error: a key whose value was not read
      frame.tree.members.pop_back();
    }
    const auto tree = std::make_shared<const Tree>(std::move(frame.tree));
    if (frame.anchor != 0) anchors_[frame.anchor] = tree;
    put(tree, 0);
  }

  void add(Tree tree, YAML::anchor_t anchor, int offset) {
    if (frames_.size() + 1 > limits::yaml_depth_max) too_deep(tree.at);
    count(1, tree.at);
    const auto shared = std::make_shared<const Tree>(std::move(tree));
    if (anchor != 0) anchors_[anchor] = shared;
    put(shared, offset);
  }

  // Puts a finished node where it belongs: as a key, a value, an item or the root.
  void put(const TreePtr& tree, int offset) {
    if (frames_.empty()) {
      root_ = tree;
      return;
    }
    Frame& frame = frames_.back();
    if (frame.tree.kind == Tree::Kind::object && !frame.has_key) {
      frame.tree.members.push_back({tree->text, tree->at, nullptr});
      frame.has_key = true;
      frame.key_offset = offset;
      return;
    }
    frame.tree.nodes += tree->nodes;
    frame.tree.height = std::max(frame.tree.height, tree->height + 1);
    if (frame.tree.kind == Tree::Kind::array) {
      frame.tree.items.push_back(tree);
    } else {
      frame.tree.members.back().value = tree;
      frame.has_key = false;
    }
  }

  std::string_view text_;
  std::vector<Frame> frames_;
  std::map<YAML::anchor_t, TreePtr> anchors_;
  TreePtr root_;
  size_t nodes_ = 0;
  size_t alias_nodes_ = 0;
  int last_document_ = -1;  // where it began
};

// yaml-cpp's words with what a person can do about them.
std::string explain(const std::string& message) {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, 14> hints = {{
      {"illegal map value", "a ':' where none can stand: check the indentation and the quotes"},
      {"end of map flow not found", "a '{' without its '}': is the file cut off?"},
      {"end of sequence flow not found", "a '[' without its ']': is the file cut off?"},
      {"illegal EOF in scalar", "a quoted text without its end: is the file cut off?"},
      {"illegal document indicator in scalar", "a quoted text without its end before the '---'"},
      {"illegal tab when looking for indentation", "a tab in the indentation; use spaces"},
      {"end of map not found", "expected 'field: value' in the indentation of its neighbours"},
      {"end of sequence not found", "expected '- item' in the indentation of its neighbours"},
      {"illegal flow end", "a '}' or ']' without its beginning"},
      {"illegal block entry", "a '- ' where no list can stand"},
      {"illegal map key", "a '?' where no key can stand"},
      {"unknown token", "a character that cannot begin a value: put the value in quotes"},
      {"unknown escape character: ", "a '\\' that is no escape: double it, or use single quotes"},
      {"bad file", "the text cannot be read"},
  }};
  for (const auto& [theirs, hint] : hints) {
    if (message.substr(0, theirs.size()) == theirs) return std::string(hint);
  }
  return message;
}

YamlError translate(std::string_view text, const YAML::Exception& exception) {
  YamlError error;
  const YAML::Mark& mark = exception.mark;
  std::string what = explain(exception.msg);
  if (!mark.is_null()) {
    error.at = position_of(mark);
    // A tab is invisible, and yaml-cpp names whatever it tripped over after it.
    const size_t offset = std::min(static_cast<size_t>(std::max(mark.pos, 0)), text.size());
    const size_t begin = text.substr(0, offset).rfind('\n') + 1;
    const size_t word = text.find_first_not_of(" \t", begin);
    const size_t tab = text.substr(0, std::min(word, text.size())).find('\t', begin);
    if (tab != std::string_view::npos) {
      error.at = position_at(text, tab);
      what = "a tab in the indentation; use spaces";
    }
  }
  error.message = "not valid YAML: " + what;
  return error;
}

// The length of the UTF-8 character that begins at `at`; 0 when there is none.
size_t utf8_length(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) -> unsigned {
    return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4) return 0;
  unsigned code = first & (0xffU >> (length + 1));
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (byte(i) & 0x3f);
  }
  const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
  const bool surrogate = code >= 0xd800 && code <= 0xdfff;
  return overlong || surrogate || code > 0x10ffff ? 0 : length;
}

// What yaml-cpp would not survive, or would silently take for something else: NUL and 0x04 end its
// reading early, other encodings change what positions mean, and every open bracket of a line is
// kept until it is closed, which takes a gigabyte for 4 MiB of "[".
std::optional<YamlError> check_text(std::string_view text) {
  const auto error = [&](size_t at, const std::string& message) {
    return YamlError{position_at(text, at), message, nullptr};
  };
  size_t brackets = 0;
  for (size_t at = 0; at < text.size();) {
    const auto c = static_cast<unsigned char>(text[at]);
    if (c == 0) return error(at, "not text: it holds a NUL byte");
    if ((c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f) {
      return error(at, "not text: it holds the control character " + std::to_string(c));
    }
    if (c == '[' || c == '{' || c == ',') {
      if (++brackets > limits::yaml_nodes_max) {
        return error(
            at, "more than " + std::to_string(limits::yaml_nodes_max) + " nodes in a document");
      }
    } else if (c == '\n' && text.substr(at + 1, 3) == "---") {
      brackets = 0;
    }
    const size_t length = utf8_length(text, at);
    if (length == 0) return error(at, "not text: it is not UTF-8");
    at += length;
  }
  return std::nullopt;
}

}  // namespace

std::optional<YamlError> read_yaml(std::string_view text, const OnDocument& on_document) {
  if (text.size() > limits::manifest_bytes_max) {
    return YamlError{{},
                     "the file has " + std::to_string(text.size()) + " bytes; at most " +
                         std::to_string(limits::manifest_bytes_max) + " are read",
                     nullptr};
  }
  constexpr std::string_view byte_order_mark = "\xef\xbb\xbf";
  if (text.substr(0, byte_order_mark.size()) == byte_order_mark) {
    text.remove_prefix(byte_order_mark.size());
  }
  if (auto error = check_text(text)) return error;

  TreeBuilder builder(text);
  const auto failed = [&](YamlError error) {
    error.partial = builder.partial();
    return error;
  };
  try {
    std::istringstream stream{std::string(text)};
    YAML::Parser parser(stream);
    while (true) {
      builder.reset();
      if (!parser.HandleNextDocument(builder)) return std::nullopt;
      if (builder.root() == nullptr) continue;
      if (auto error = on_document(builder.root())) return error;
    }
  } catch (const Stop& stop) {
    return failed(stop.error);
  } catch (const YAML::Exception& exception) {
    return failed(translate(text, exception));
  } catch (const std::exception& exception) {
    return failed({{}, std::string("the text cannot be read: ") + exception.what(), nullptr});
  }
}

}  // namespace ublk_operator

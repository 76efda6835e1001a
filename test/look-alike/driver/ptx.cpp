#include "ptx.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <unordered_map>

namespace look_alike {

namespace {

bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '.'; }

/* Walks through the words of a piece of text. */
class Words {
 public:
  explicit Words(std::string_view text) : text_(text) {}

  /* The next name, directive or single sign; empty at the end. Skips comments. */
  std::string_view next() {
    for (;;) {
      while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_])) != 0) at_++;
      if (text_.substr(at_, 2) != "//") break;
      at_ = std::min(text_.find('\n', at_), text_.size());
    }
    if (at_ == text_.size()) return {};
    const std::size_t start = at_++;
    if (is_name(text_[start]))
      while (at_ < text_.size() && is_name(text_[at_])) at_++;
    return text_.substr(start, at_ - start);
  }
  std::size_t position() const { return at_; }
  void jump(std::size_t to) { at_ = to; }
  std::string_view text() const { return text_; }

 private:
  std::string_view text_;
  std::size_t at_ = 0;
};

std::size_t number(std::string_view text) { return std::strtoull(std::string(text).c_str(), nullptr, 10); }

/* Bytes of `.u64`, `.f32`, `.b8`, ...; 0 for any other word. */
unsigned bytes_of_type(std::string_view word) {
  if (word == ".pred") return 1;
  if (word.size() < 3 || word[0] != '.' || std::string_view("usfb").find(word[1]) == std::string_view::npos) return 0;
  const std::size_t bits = number(word.substr(2));
  return bits == 8 || bits == 16 || bits == 32 || bits == 64 || bits == 128 ? static_cast<unsigned>(bits / 8) : 0;
}

struct Variable {
  std::string_view name;
  std::size_t bytes = 0;
};

/* `.align 8 .b8 name[40]`, behind `.param` or `.shared`, up to the sign that ends it. */
Variable read_variable(Words &words) {
  Variable variable;
  std::size_t element = 0;
  for (std::string_view word = words.next(); !word.empty(); word = words.next()) {
    if (word == "," || word == ")" || word == ";") break;
    if (word == ".align" || word == ".ptr") {
      if (word == ".align") words.next();
    } else if (word == "[") {
      // Dynamic shared memory has no size of its own: `dyn_smem[]`.
      const std::string_view size = words.next();
      variable.bytes *= number(size);
      if (size != "]") words.next();
    } else if (const unsigned bytes = bytes_of_type(word); bytes != 0 && element == 0) {
      variable.bytes = element = bytes;
    } else if (word[0] != '.') {
      variable.name = word;
    }
  }
  return variable;
}

/* Where the block that opens at `open` is closed. */
std::size_t end_of_block(std::string_view text, std::size_t open) {
  int depth = 0;
  for (std::size_t at = open; at < text.size(); at++) {
    if (text[at] == '{') depth++;
    if (text[at] == '}' && --depth == 0) return at + 1;
  }
  return text.size();
}

bool uses(std::string_view body, std::string_view name) {
  for (std::size_t at = body.find(name); at != std::string_view::npos; at = body.find(name, at + 1))
    if (at + name.size() == body.size() || !is_name(body[at + name.size()])) return true;
  return false;
}

/* Behind `.entry`. `outside`: shared variables of the module, which an entry has where it uses them. */
PtxEntry read_entry(Words &words, const std::vector<Variable> &outside) {
  PtxEntry entry;
  entry.name = words.next();
  std::string_view word = words.next();
  if (word == "(") {
    // A parameter's end is a comma, and the last one's the parenthesis.
    for (word = words.next(); word == ".param"; word = words.next()) {
      entry.parameter_bytes.push_back(static_cast<unsigned>(read_variable(words).bytes));
      if (words.text()[words.position() - 1] == ')') break;
    }
    word = words.next();
  }
  for (; !word.empty() && word != "{"; word = words.next()) {
    if (word != ".maxntid" && word != ".reqntid") continue;
    entry.max_threads = 1;
    do entry.max_threads *= static_cast<unsigned>(number(words.next()));
    while (words.text().substr(words.position(), 1) == "," && words.next() == ",");
  }
  const std::size_t open = words.position() - 1, close = end_of_block(words.text(), open);
  const std::string_view body = words.text().substr(open, close - open);
  for (std::size_t at = body.find(".shared .align"); at != std::string_view::npos; at = body.find(".shared .align", at + 1)) {
    Words inside(body);
    inside.jump(at + 7);
    entry.shared_bytes += read_variable(inside).bytes;
  }
  for (const Variable &variable : outside)
    if (uses(body, variable.name)) entry.shared_bytes += variable.bytes;
  words.jump(close);
  return entry;
}

Ptx parse(std::string_view text) {
  Ptx ptx;
  Words words(text);
  std::vector<Variable> shared;
  bool is_extern = false;
  for (std::string_view word = words.next(); !word.empty(); word = words.next()) {
    if (word == ".version") {
      const std::string version(words.next());
      ptx.version = std::atoi(version.c_str()) * 10 + std::atoi(std::strchr(version.c_str(), '.') + 1);
    } else if (word == ".target") {
      const std::string_view target = words.next();
      ptx.target = static_cast<int>(number(target.substr(std::min<std::size_t>(3, target.size()))));
      ptx.this_chip_only = target.back() == 'a';
    } else if (word == ".extern") {
      is_extern = true;
      continue;
    } else if (word == ".shared") {
      const Variable variable = read_variable(words);
      // Dynamic shared memory is extern, and has no size.
      if (!is_extern) shared.push_back(variable);
    } else if (word == ".entry") {
      ptx.entries.push_back(read_entry(words, shared));
    } else if (word == "{") {
      words.jump(end_of_block(text, words.position() - 1));
    }
    is_extern = false;
  }
  return ptx;
}

}  // namespace

std::shared_ptr<const Ptx> parse_ptx(const char *text) {
  static auto *known = new std::unordered_map<std::string, std::shared_ptr<const Ptx>>;
  auto &slot = (*known)[text];
  if (slot == nullptr) slot = std::make_shared<const Ptx>(parse(text));
  return slot;
}

}  // namespace look_alike

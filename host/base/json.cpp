#include "host/base/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "elbo/error.h"

namespace elbo {
namespace {

constexpr std::size_t most_levels = 64;
constexpr std::size_t most_repeated = 100;
constexpr std::size_t longest_shown = 60;  // bytes of a text in a message

bool is_continuation(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_word(char c) { return is_digit(c) || is_letter(c) || c == '_' || c == '+' || c == '-' || c == '.'; }

// Builds the tree from nlohmann's events. These carry no places, so each event's token is found again in the
// text: it begins after white space and at most one ',' or ':' behind the token before it.
class Builder final : public nlohmann::json_sax<nlohmann::json> {
 public:
  Builder(std::string_view text, const std::string& file, std::vector<RepeatedName>& repeated)
      : text_(text), file_(file), repeated_(repeated) {
    const std::size_t zero = text.find('\0');  // nlohmann takes a zero byte for the end of the text
    if (zero != text.npos) fail_at(zero, "found a zero byte; this is no text file");
  }
  Json root;

  bool null() override { return scalar(nullptr, 4); }
  bool boolean(bool v) override { return scalar(v, v ? 4 : 5); }
  bool number_integer(std::int64_t v) override {
    return scalar(static_cast<double>(v), v == 0 ? 2 : std::to_string(v).size());  // 0 comes as -0
  }
  bool number_unsigned(std::uint64_t v) override { return scalar(static_cast<double>(v), std::to_string(v).size()); }
  bool number_float(double v, const std::string& token) override { return scalar(v, token.size()); }
  bool string(std::string& v) override {
    const Place place = next_token();
    return finish({std::move(v), place}, string_length());
  }
  bool binary(nlohmann::json::binary_t&) override { return false; }  // no such thing in JSON text

  bool start_object(std::size_t) override { return open(Json::Object()); }
  bool start_array(std::size_t) override { return open(Json::Array()); }
  bool end_array() override { return close(); }
  bool end_object() override {
    std::erase_if(std::get<Json::Object>(levels_.back().json->value), [](const auto& m) { return m.repeated; });
    return close();
  }

  bool key(std::string& name) override {
    const Place place = next_token();
    end_ += string_length();
    const auto [first, is_new] = levels_.back().names.try_emplace(name, place);
    std::get<Json::Object>(levels_.back().json->value).push_back({std::move(name), {}, place, !is_new});
    if (!is_new && repeated_.size() < most_repeated) repeated_.push_back({path(), place, first->second});
    after_ = After::name;
    return true;
  }

  bool parse_error(std::size_t bytes_read, const std::string&, const nlohmann::detail::exception& error) override {
    next_token();
    const bool at_end = end_ >= text_.size();
    if (at_end && after_ == After::nothing) fail_at(end_, "empty; expected a JSON object in { }");
    const std::string expected = expectation();
    if (at_end) fail_at(end_, "expected ", expected, ", but the text ends here");

    constexpr int number_too_large = 406;
    if (error.id == number_too_large) fail_at(end_, "the number ", word(), " is out of range");
    const char c = text_[end_];
    if (c == '"' && takes_string_) fail_in_string(bytes_read);
    fail_at(end_, "expected ", expected, ", found ", found(), hint());
  }

 private:
  struct Level {
    Json* json;
    std::unordered_map<std::string, Place> names;  // of an object, so far
  };
  enum class After { nothing, opening, name, value };

  template <class... Args>
  [[noreturn]] void fail_at(std::size_t offset, const Args&... args) {
    const Place place = place_of(offset);
    fail(file_, ":", place.line, ":", place.column, ": ", args...);
  }

  // Offsets must not fall from call to call.
  Place place_of(std::size_t offset) {
    for (; counted_ < std::min(offset, text_.size()); ++counted_) {
      if (text_[counted_] == '\n') {
        place_ = {place_.line + 1, 1};
      } else if (!is_continuation(text_[counted_])) {
        ++place_.column;
      }
    }
    return place_;
  }

  void skip_space() { end_ = std::min(text_.find_first_not_of(" \t\r\n", end_), text_.size()); }
  void skip_punctuation(char c) {
    if (end_ < text_.size() && text_[end_] == c) {
      ++end_;
      skip_space();
      skipped_ = true;
    }
  }

  // Moves end_ to where the next token begins.
  Place next_token() {
    skipped_ = false;
    if (counted_ == 0 && text_.starts_with("\xEF\xBB\xBF")) end_ = counted_ = 3;  // a byte order mark
    skip_space();
    if (after_ == After::name) skip_punctuation(':');
    if (after_ == After::value && !levels_.empty()) skip_punctuation(',');
    return place_of(end_);
  }

  // Of the valid string that begins at end_, quotes included.
  std::size_t string_length() const {
    std::size_t i = end_ + 1;
    while (text_[i] != '"') i += text_[i] == '\\' ? 2 : 1;
    return i + 1 - end_;
  }

  bool scalar(decltype(Json::value) value, std::size_t length) {
    const Place place = next_token();
    return finish({std::move(value), place}, length);
  }

  bool finish(Json json, std::size_t length) {
    add(std::move(json));
    end_ += length;
    after_ = After::value;
    return true;
  }

  Json& add(Json json) {
    if (levels_.empty()) return root = std::move(json);
    auto& parent = levels_.back().json->value;
    if (auto* array = std::get_if<Json::Array>(&parent)) return array->emplace_back(std::move(json));
    return std::get<Json::Object>(parent).back().value = std::move(json);
  }

  bool open(decltype(Json::value) empty) {
    const Place place = next_token();
    if (levels_.size() == most_levels) fail_at(end_, "nested deeper than ", most_levels, " levels");
    levels_.push_back({&add({std::move(empty), place}), {}});
    ++end_;
    after_ = After::opening;
    return true;
  }

  bool close() {
    skip_space();
    ++end_;
    levels_.pop_back();
    after_ = After::value;
    return true;
  }

  // Of the member or element that was begun last.
  std::string path() const {
    std::string path;
    for (const Level& level : levels_) {
      if (!path.empty()) path += '.';
      if (const auto* array = level.json->as<Json::Array>()) {
        path += std::to_string(array->size() - 1);
      } else {
        path += path_name(std::get<Json::Object>(level.json->value).back().name);
      }
    }
    return path;
  }

  bool in_object() const { return !levels_.empty() && levels_.back().json->as<Json::Object>(); }

  // What may stand where the token at end_ stands; sets takes_string_.
  std::string expectation() {
    takes_string_ = true;
    const std::string name = "a field name in double quotes";
    if (after_ == After::nothing) return "a JSON value";
    if (after_ == After::opening) return in_object() ? name + " or '}'" : "a value or ']'";
    if (skipped_) return in_object() && after_ == After::value ? name + " after the comma" : "a value";
    takes_string_ = false;
    if (after_ == After::name) return "':' after the field name";
    if (levels_.empty()) return "the end of the text";
    return in_object() ? "',' or '}'" : "',' or ']'";
  }

  std::string_view word() const {
    std::size_t n = 0;
    while (n < 40 && end_ + n < text_.size() && is_word(text_[end_ + n])) ++n;
    return text_.substr(end_, n);
  }

  std::string found() const {
    if (!word().empty()) return std::string(word());
    const char c = text_[end_];
    if (c == '"') return "text in double quotes";
    if (c > ' ' && c < 0x7F) return {'\'', c, '\''};
    return cat("byte ", static_cast<int>(static_cast<unsigned char>(c)));
  }

  std::string hint() const {
    const char c = text_[end_];
    if (c == '/' || c == '#') return "; JSON has no comments";
    if (c == '\'') return "; JSON takes double quotes";
    if (!takes_string_ || word().empty()) return "";
    std::string lower(word());
    std::ranges::transform(lower, lower.begin(),
                           [](char x) { return x >= 'A' && x <= 'Z' ? static_cast<char>(x - 'A' + 'a') : x; });
    if (lower.ends_with("nan") || lower.find("inf") != lower.npos) return "; JSON has no NaN and no infinity";
    if (lower == "true" || lower == "false") return "; JSON writes true and false in small letters";
    const bool number = is_digit(c) || (word().size() > 1 && !is_letter(c));
    return number ? "; JSON writes numbers like 0.5, -2 or 3e-4" : "; text takes double quotes";
  }

  // A string that begins at end_ cannot be read on after `bytes_read` bytes of the text.
  [[noreturn]] void fail_in_string(std::size_t bytes_read) {
    const std::size_t bad = bytes_read - 1;
    if (bad >= text_.size() || text_[bad] == '\n')
      fail_at(end_, "the text that begins here has no closing '\"' on its line");
    const auto c = static_cast<unsigned char>(text_[bad]);
    if (c < 0x20) fail_at(bad, "found a control character (byte ", int{c}, ") inside double quotes");
    if (c >= 0x80 || static_cast<unsigned char>(text_[bad - 1]) >= 0x80) fail_at(bad, "found bytes that are not UTF-8");
    fail_at(bad, "found an escape that JSON does not have; a '\\' itself is written '\\\\'");
  }

  std::string_view text_;
  const std::string& file_;
  std::vector<RepeatedName>& repeated_;
  std::vector<Level> levels_;  // the open objects and arrays, outermost first
  After after_ = After::nothing;
  std::size_t end_ = 0;        // of the last token; while one is looked at, where it begins
  bool skipped_ = false;       // a ',' or ':' stands before the token at end_
  bool takes_string_ = false;  // see expectation()
  std::size_t counted_ = 0;    // place_ is the place of this offset
  Place place_{1, 1};
};

}  // namespace

const Json* Json::find(std::string_view name) const {
  if (const auto* object = as<Object>()) {
    for (const Member& m : *object) {
      if (m.name == name) return &m.value;
    }
  }
  return nullptr;
}

Json* Json::find(std::string_view name) { return const_cast<Json*>(std::as_const(*this).find(name)); }

Json parse_json(std::string_view text, const std::string& file, std::vector<RepeatedName>& repeated) {
  Builder builder(text, file, repeated);
  nlohmann::json::sax_parse(text, &builder);
  return std::move(builder.root);
}

Json parse_json(std::string_view text, const std::string& file) {
  std::vector<RepeatedName> repeated;
  Json json = parse_json(text, file, repeated);
  for (const RepeatedName& r : repeated) {
    fail(file, ":", r.place.line, ":", r.place.column, ": ", r.path, ": given twice; first on line ", r.first.line);
  }
  return json;
}

std::string in_quotes(std::string_view text) {
  const bool shorten = text.size() > longest_shown;
  if (shorten) text = text.substr(0, longest_shown);
  while (shorten && !text.empty() && is_continuation(text.back())) text.remove_suffix(1);
  if (shorten && !text.empty() && static_cast<unsigned char>(text.back()) >= 0xC0) text.remove_suffix(1);
  const std::string escaped = nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return shorten ? escaped.substr(0, escaped.size() - 1) + "...\"" : escaped;
}

std::string number_text(double value) {
  const bool whole = std::trunc(value) == value && std::abs(value) <= 9007199254740992.0;
  if (whole) return std::to_string(static_cast<std::int64_t>(value));
  char buffer[32];
  std::string text(buffer, std::to_chars(buffer, buffer + sizeof buffer, value).ptr);
  const std::size_t e = text.find('e');  // e-04, e+30
  if (e == text.npos) return text;
  const std::size_t digits = text.find_first_not_of("+-0", e + 1);
  return text.substr(0, e + 1) + (text[e + 1] == '-' ? "-" : "") + text.substr(digits);
}

std::string path_name(std::string_view name) {
  const bool plain = !name.empty() && name.size() <= longest_shown && std::ranges::all_of(name, is_word);
  return plain ? std::string(name) : in_quotes(name);
}

std::string describe(const Json& json) {
  if (const auto* text = json.as<std::string>()) return in_quotes(*text);
  if (const auto* flag = json.as<bool>()) return *flag ? "true" : "false";
  if (const auto* number = json.as<double>()) return number_text(*number);
  if (json.as<Json::Array>()) return "a list";
  return json.as<Json::Object>() ? "an object" : "null";
}

}  // namespace elbo

// Strict JSON: a small tree that knows where each value stands in its text, and errors for people.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace elbo {

// Counted from 1; columns in characters.
struct Place {
  int line = 0, column = 0;
};

struct Json {
  struct Member;
  using Array = std::vector<Json>;
  using Object = std::vector<Member>;  // in the order of the text, every name once

  std::variant<std::nullptr_t, bool, double, std::string, Array, Object> value;
  Place place;

  template <class T>
  const T* as() const {
    return std::get_if<T>(&value);
  }
  const Json* find(std::string_view name) const;  // null unless this is an object with such a member
  Json* find(std::string_view name);
};

struct Json::Member {
  std::string name;
  Json value;
  Place place;            // of the name
  bool repeated = false;  // only while its object is being read
};

// A name that its object has already. The tree keeps the first.
struct RepeatedName {
  std::string path;  // "train.epochs"
  Place place, first;
};

// Reads one JSON value. Throws Error "file:line:column: what was found and what was expected" where `text` is
// no JSON, is nested deeper than 64 levels, or has a number that a double cannot hold. Adds to `repeated` what
// is given twice, up to 100 names.
Json parse_json(std::string_view text, const std::string& file, std::vector<RepeatedName>& repeated);
// The same; repeated names are an Error, too.
Json parse_json(std::string_view text, const std::string& file);

// The shortest decimal that reads back as the same finite number: 128, 0.5, 3e-4.
std::string number_text(double);
// `text` in double quotes for a message: special characters escaped, long text shortened.
std::string in_quotes(std::string_view text);
// A name as part of a path: as it is where it is short and plain, else in quotes.
std::string path_name(std::string_view name);
// A value for a message: 0.5, "text", a list, an object.
std::string describe(const Json&);

}  // namespace elbo

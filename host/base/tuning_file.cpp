#include "host/base/tuning_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "host/base/files.h"
#include "host/base/json.h"
#include "host/base/sha256.h"

namespace elbo {
namespace {

using nlohmann::ordered_json;

constexpr int format = 1;
constexpr Epilogue epilogues[] = {Epilogue::none,          Epilogue::bias,  Epilogue::relu_bias,
                                  Epilogue::relu_aux_bias, Epilogue::drelu, Epilogue::bgradb};
constexpr Precision precisions[] = {Precision::fp32, Precision::tf32};

// ---- Writing -----------------------------------------------------------------------------------------------

ordered_json numbers_of(const Algorithm& a) {
  ordered_json j;
  for (const auto& [name, field] : algorithm_fields) j[name] = a.*field;
  return j;
}

std::string hex_of(const Algorithm& a) {
  std::string text;
  for (const std::uint64_t word : a.data) text += fmt::format("{:016x}", word);
  return text;
}

ordered_json products_of(const Tuning& t) {
  ordered_json products = ordered_json::array();
  for (const Tuning::Product& p : t.products) {
    const ProductShape& s = p.choice.product;
    ordered_json algorithm = numbers_of(p.choice.algorithm);
    algorithm["data"] = hex_of(p.choice.algorithm);
    products.push_back({{"product", description_of(s)},
                        {"m", s.m},
                        {"n", s.n},
                        {"k", s.k},
                        {"transpose_a", s.transpose_a},
                        {"transpose_b", s.transpose_b},
                        {"epilogue", name_of(s.epilogue)},
                        {"alignment", s.alignment},
                        {"algorithm", std::move(algorithm)},
                        {"workspace_bytes", p.choice.workspace_bytes},
                        {"waves", p.choice.waves},
                        {"microseconds", p.microseconds},
                        {"own_microseconds", p.own_microseconds},
                        {"candidates", p.candidates}});
  }
  return products;
}

std::string checksum_of(const Tuning& t) {
  const std::string text = ordered_json{t.gpu, t.library, name_of(t.precision), products_of(t)}.dump();
  Sha256 sha;
  sha.update(text.data(), text.size());
  return sha.hex();
}

// ---- Reading -----------------------------------------------------------------------------------------------

// The fields of an object, which are all asked for, and are all that there are.
class Fields {
 public:
  Fields(const Json& json, std::string path, const std::string& file)
      : json_(json), path_(std::move(path)), file_(file) {
    if (!json.as<Json::Object>()) wrong(json, path_, "an object");
  }
  // Call it in the end.
  void require_no_more() const {
    for (const Json::Member& m : *json_.as<Json::Object>())
      if (!taken_.contains(m.name)) fail_at(m.place, within(m.name), ": a tuning file has no such field");
  }

  const Json& take(const std::string& name) {
    taken_.insert(name);
    const Json* const found = json_.find(name);
    if (!found) fail_at(json_.place, within(name), ": is missing");
    return *found;
  }
  std::string text(const std::string& name) {
    const Json& j = take(name);
    if (!j.as<std::string>()) wrong(j, within(name), "a text");
    return *j.as<std::string>();
  }
  bool flag(const std::string& name) {
    const Json& j = take(name);
    if (!j.as<bool>()) wrong(j, within(name), "true or false");
    return *j.as<bool>();
  }
  double number(const std::string& name) {
    const Json& j = take(name);
    if (!j.as<double>() || *j.as<double>() < 0) wrong(j, within(name), "a number from 0");
    return *j.as<double>();
  }
  std::int64_t integer(const std::string& name, std::int64_t least) { return integer(take(name), within(name), least); }
  std::int64_t integer(const Json& j, const std::string& path, std::int64_t least) const {
    constexpr double most = 4294967295.0;
    const double* const v = j.as<double>();
    if (!v || *v != std::floor(*v) || *v < static_cast<double>(least) || *v > most)
      wrong(j, path, cat("an integer from ", least, " to 2^32 - 1"));
    return static_cast<std::int64_t>(*v);
  }
  // One of `values`, by its name.
  template <class E, std::size_t n>
  E choice(const std::string& name, const E (&values)[n]) {
    const Json& j = take(name);
    std::string names;
    for (const E value : values) {
      if (const auto* word = j.as<std::string>(); word && *word == name_of(value)) return value;
      names += cat(names.empty() ? "" : ", ", name_of(value));
    }
    wrong(j, within(name), "one of " + names);
  }
  const Json::Array& list(const std::string& name) {
    const Json& j = take(name);
    if (!j.as<Json::Array>()) wrong(j, within(name), "a list");
    return *j.as<Json::Array>();
  }

  std::string within(const std::string& name) const { return (path_.empty() ? "" : path_ + ".") + path_name(name); }
  [[noreturn]] void wrong(const Json& j, const std::string& path, const std::string& expected) const {
    fail_at(j.place, path.empty() ? "" : path + ": ", "expected ", expected, ", found ", describe(j));
  }
  template <class... Args>
  [[noreturn]] void fail_at(const Place& place, const Args&... args) const {
    fail(file_, ":", place.line, ":", place.column, ": ", args...);
  }

 private:
  const Json& json_;
  std::string path_;
  const std::string& file_;
  std::set<std::string> taken_;
};

Algorithm parse_algorithm(Fields fields) {
  Algorithm a;
  for (const auto& [name, field] : algorithm_fields) a.*field = fields.integer(name, 0);
  const Json& data = fields.take("data");
  const auto* const text = data.as<std::string>();
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  if (!text || text->size() != 16 * a.data.size() || !std::ranges::all_of(*text, is_hex))
    fields.wrong(data, fields.within("data"), cat(16 * a.data.size(), " digits from 0 to f"));
  for (std::size_t i = 0; i < a.data.size(); ++i) a.data[i] = std::stoull(text->substr(16 * i, 16), nullptr, 16);
  fields.require_no_more();
  return a;
}

Tuning::Product parse_product(const Json& json, const std::string& path, const std::string& file) {
  Fields fields(json, path, file);
  Tuning::Product p;
  ProductShape& s = p.choice.product;
  const std::string description = fields.text("product");
  s.m = fields.integer("m", 1);
  s.n = fields.integer("n", 1);
  s.k = fields.integer("k", 1);
  s.transpose_a = fields.flag("transpose_a");
  s.transpose_b = fields.flag("transpose_b");
  s.epilogue = fields.choice("epilogue", epilogues);
  const Json::Array& alignment = fields.list("alignment");
  const bool five = alignment.size() == s.alignment.size();
  for (std::size_t i = 0; five && i < alignment.size(); ++i)
    s.alignment[i] = fields.integer(alignment[i], fields.within("alignment"), 1);
  if (!five || !std::ranges::all_of(s.alignment, [](std::int64_t a) { return a <= 16 && (a & (a - 1)) == 0; }))
    fields.fail_at(fields.take("alignment").place, fields.within("alignment"), ": expected five of 1, 2, 4, 8 and 16");
  p.choice.algorithm = parse_algorithm(Fields(fields.take("algorithm"), fields.within("algorithm"), file));
  p.choice.workspace_bytes = fields.integer("workspace_bytes", 0);
  p.choice.waves = fields.number("waves");
  p.microseconds = fields.number("microseconds");
  p.own_microseconds = fields.number("own_microseconds");
  p.candidates = fields.integer("candidates", 1);
  fields.require_no_more();
  if (description != description_of(s))
    fields.fail_at(json.place, fields.within("product"), ": is ", description_of(s), " by the fields below it, not ",
                   in_quotes(description));
  return p;
}

}  // namespace

std::string to_json(const Tuning& t) {
  const ordered_json j = {{"format", format},           {"gpu", t.gpu},
                          {"library", t.library},       {"precision", name_of(t.precision)},
                          {"products", products_of(t)}, {"sha256", checksum_of(t)}};
  return j.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

Tuning parse_tuning(const std::string& text, const std::string& file) {
  const Json json = parse_json(text, file);
  Fields fields(json, "", file);
  Tuning t;
  t.where = file;
  if (const std::int64_t is = fields.integer("format", 0); is != format)
    fields.fail_at(fields.take("format").place, "format: is ", is, "; this elbo reads ", format);
  t.gpu = fields.text("gpu");
  t.library = fields.text("library");
  t.precision = fields.choice("precision", precisions);
  std::set<ProductShape> shapes;
  for (const Json& product : fields.list("products")) {
    const std::string path = cat("products.", t.products.size());
    t.products.push_back(parse_product(product, path, file));
    if (!shapes.insert(t.products.back().choice.product).second)
      fields.fail_at(product.place, path, ": the same product is there before");
  }
  const std::string sum = fields.text("sha256");
  fields.require_no_more();
  require(sum == checksum_of(t), file, ": was changed since it was made: its sha256 is that of something else");
  return t;
}

Tuning read_tuning(const std::string& path) { return parse_tuning(read_text(path), path); }

ordered_json to_json(const std::vector<ProductChoice>& choices) {
  ordered_json list = ordered_json::array();
  for (const ProductChoice& c : choices) {
    ordered_json j = {{"product", description_of(c.product)}, {"alignment", c.product.alignment}};
    if (!c.refusal.empty()) {
      j["refusal"] = c.refusal;
    } else {
      j["algorithm"] = numbers_of(c.algorithm);
      j["workspace_bytes"] = c.workspace_bytes;
      j["waves"] = c.waves;
      j["tuned"] = c.tuned;
    }
    list.push_back(std::move(j));
  }
  return list;
}

void print_products(const std::vector<ProductChoice>& choices) {
  if (choices.empty()) return;
  std::size_t widest = 7;
  for (const ProductChoice& c : choices) widest = std::max(widest, description_of(c.product).size());
  fmt::print("\n{:<{}}{:>10}{:>6}{:>8}{:>9}{:>11}{:>9}{:>9}{:>14}{:>8}\n", "product", widest, "algorithm", "tile",
             "stages", "split K", "reduction", "swizzle", "cluster", "workspace KB", "waves");
  for (const ProductChoice& c : choices) {
    fmt::print("{:<{}}", description_of(c.product), widest);
    const Algorithm& a = c.algorithm;
    if (!c.refusal.empty()) {
      fmt::print("  none: {}\n", c.refusal);
    } else {
      fmt::print("{:>10}{:>6}{:>8}{:>9}{:>11}{:>9}{:>9}{:>14.1f}{:>8.2f}{}\n", a.id, a.tile, a.stages, a.split_k,
                 a.reduction_scheme, a.swizzle, a.cluster_shape, static_cast<double>(c.workspace_bytes) / 1024, c.waves,
                 c.tuned ? "  tuned" : "");
    }
  }
}

}  // namespace elbo

#include "host/train/metrics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "elbo/error.h"
#include "host/base/json.h"

namespace elbo {
namespace {

using nlohmann::ordered_json;

// The fields of a record: `visit(name, value)` for each, in the order of the line.
template <class Visit, class T>
void visit_figures(T&& f, Visit visit) {
  visit("elbo", f.elbo);
  visit("objective", f.objective);
  visit("reconstruction", f.reconstruction);
  visit("kl", f.kl);
  visit("unit_kl", f.unit_kl);
}

template <class Visit, class T>
void visit_metrics(T& m, Visit visit) {
  visit("epoch", m.epoch);
  visit("step", m.step);
  visit("train", m.train);
  visit("test", m.test);
  visit("images_per_second", m.images_per_second);
  visit("seconds", m.seconds);
}

// JSON has no NaN: nlohmann writes what is not finite as null.
struct Writer {
  ordered_json& to;
  template <class T>
  void operator()(const char* name, const T& value) const {
    to[name] = value;
  }
  void operator()(const char* name, const Figures& figures) const {
    visit_figures(figures, Writer{to[name]});
    for (const auto& [further, value] : figures.further) to[name][further] = value;
  }
};

struct Reader {
  const Json& from;
  std::string at;  // "" or "train."

  void operator()(const char* name, std::int64_t& value) const {
    const double number = to_number(member(name), at + name);
    if (!(number >= 0 && number <= 9007199254740992.0 && std::trunc(number) == number))
      fail("metrics: ", at, name, ": expected a count, found ", describe(member(name)));
    value = static_cast<std::int64_t>(number);
  }
  void operator()(const char* name, double& value) const { value = to_number(member(name), at + name); }
  void operator()(const char* name, std::vector<double>& values) const {
    const auto* list = member(name).as<Json::Array>();
    if (!list) fail("metrics: ", at, name, ": expected a list, found ", describe(member(name)));
    for (const Json& item : *list) values.push_back(to_number(item, at + name));
  }
  void operator()(const char* name, Figures& figures) const {
    const auto* object = member(name).as<Json::Object>();
    if (!object) fail("metrics: ", at, name, ": expected an object, found ", describe(member(name)));
    visit_figures(figures, Reader{member(name), at + name + "."});
    for (const Json::Member& m : *object)
      if (!Figures::is_of_every_model(m.name) && (is_number(m.value) || Figures::is_bound(m.name)))
        figures.further.push_back({m.name, to_number(m.value, at + name + "." + m.name)});
  }

 private:
  static bool is_number(const Json& value) { return value.as<double>() || value.as<std::nullptr_t>(); }
  const Json& member(const char* name) const {
    const Json* value = from.find(name);
    require(value, "metrics: ", at, name, ": missing");
    return *value;
  }
  static double to_number(const Json& json, const std::string& path) {
    if (json.as<std::nullptr_t>()) return std::numeric_limits<double>::quiet_NaN();
    const auto* number = json.as<double>();
    if (!number) fail("metrics: ", path, ": expected a number, found ", describe(json));
    return *number;
  }
};

}  // namespace

bool Figures::is_of_every_model(const std::string& name) {
  bool found = false;
  visit_figures(Figures(), [&](const char* one, const auto&) { found = found || name == one; });
  return found;
}

double Figures::further_named(const std::string& name) const {
  const auto found = std::ranges::find(further, name, &NamedFigure::name);
  return found == further.end() ? std::numeric_limits<double>::quiet_NaN() : found->value;
}

NamedFigure Figures::judge() const {
  const auto found = std::ranges::find_if(further, is_bound, &NamedFigure::name);
  return found == further.end() ? NamedFigure{"elbo", elbo} : *found;
}

std::string to_json_line(const EpochMetrics& metrics) {
  ordered_json line;
  visit_metrics(metrics, Writer{line});
  return line.dump();
}

EpochMetrics parse_metrics(const std::string& line) {
  const Json json = parse_json(line, "metrics");
  EpochMetrics metrics;
  visit_metrics(metrics, Reader{json, ""});
  return metrics;
}

}  // namespace elbo

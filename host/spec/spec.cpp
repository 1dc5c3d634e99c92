#include "host/spec/spec.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <variant>

#include "elbo/error.h"
#include "host/base/files.h"
#include "host/base/json.h"
#include "host/base/words.h"

namespace elbo {
namespace {

using nlohmann::ordered_json;

// ---- The table ------------------------------------------------------------------------------------------

struct Section {};  // an object that has fields of its own

// A word for each value of an enum.
struct Choice {
  std::uint8_t* value;  // the enum; null: there is one word only, and nothing to choose
  Words words;
  std::vector<std::uint8_t> values;  // of the words
};

// A number, or a word in its place.
struct NumberOrWord {
  double* value;
  bool* is_word;
  const char* word;
};

struct Range {
  double low, high;
  bool low_included = true, high_included = true;
};

// One row: where a value stands in the JSON, where it goes, what it may be, what it means. Its default is what
// its target holds beforehand.
struct Field {
  std::string path;  // "train.epochs", from the object that the table describes
  std::variant<Section, std::string*, std::int64_t*, std::uint64_t*, float*, double*, Choice, NumberOrWord,
               std::vector<LayerSpec>*>
      target;
  std::string description;
  Range range{};  // of a number; of the length of a list
  bool required = false;
  bool fixed_default = true;  // false: the description tells it
  std::string owner{};        // the field has a meaning only where what is chosen beside it
  Words owner_words{};        // is one of these words

  Field in(Range r) && {
    range = r;
    return std::move(*this);
  }
  Field needed() && {
    required = true;
    return std::move(*this);
  }
  Field default_varies() && {
    fixed_default = false;
    return std::move(*this);
  }
  Field only_with(std::string choice, Words words) && {
    owner = std::move(choice);
    owner_words = std::move(words);
    return std::move(*this);
  }
};
using Table = std::vector<Field>;

template <class E>
Choice choice(E& value, std::initializer_list<std::pair<const char*, E>> pairs) {
  static_assert(std::is_enum_v<E> && sizeof(E) == 1);
  Choice c{reinterpret_cast<std::uint8_t*>(&value), {}, {}};
  for (const auto& [word, is] : pairs) {
    c.words.emplace_back(word);
    c.values.push_back(static_cast<std::uint8_t>(is));
  }
  return c;
}
Choice only(const char* word) { return {nullptr, {word}, {}}; }

constexpr Range positive{0, 1e30, false, true};
constexpr Range scale{1e-30, 1e30};  // neither it nor its inverse leaves the range of a float
constexpr Range not_negative{0, 1e30};
constexpr Range below_one{0, 1, true, false};

Table table(LayerSpec& s) {
  return {
      Field{"type", only("dense"), "The kind of layer: dense is activation(weight x + bias)."}.needed(),
      Field{"units", &s.units, "Outputs of the layer."}.in({1, 65536}).needed(),
      Field{"activation",
            choice(s.activation, {{"identity", Activation::identity},
                                  {"relu", Activation::relu},
                                  {"tanh", Activation::tanh},
                                  {"softplus", Activation::softplus}}),
            "The function that follows the layer."},
  };
}

Table table(Spec& s) {
  auto& data = s.data;
  auto& model = s.model;
  auto& objective = s.objective;
  auto& optimizer = s.optimizer;
  auto& train = s.train;
  return {
      Field{"name", &s.name, "Names the experiment and its run: at most 64 letters, digits, '.', '_' and '-'."}
          .needed(),
      Field{"seed", &s.seed, "Key of every random number of the run: initial weights, shuffling, noise."}.in(
          {0, 9007199254740991.0}),  // 2^53 - 1: every JSON reader has integers up to here

      Field{"data", Section{}, "The images."},
      Field{"data.dataset", &data.dataset,
            "Folder of the images below a data directory: mnist, fashion-mnist, freyface."}
          .needed(),
      Field{"data.split", choice(data.split, {{"holdout", Split::holdout}, {"none", Split::none}}),
            "holdout: test on images that training never sees. none: train and test on every image."},
      Field{"data.binarize",
            choice(data.binarize,
                   {{"none", Binarize::none}, {"threshold", Binarize::threshold}, {"dynamic", Binarize::dynamic}}),
            "Targets. none: pixel / 255. threshold: 1 from 128 up, else 0. dynamic: 1 with probability pixel / 255, "
            "drawn afresh at every use."},
      Field{"data.residency",
            choice(data.residency,
                   {{"auto", Residency::automatic}, {"device", Residency::device}, {"stream", Residency::stream}}),
            "Where the training images live. device: in the device's memory. stream: in the host's, copied batch by "
            "batch while the device computes. auto: on the device if they fit."},

      Field{"model", Section{}, "The network and its distributions."},
      Field{"model.latent", &model.latent, "Dimensions of the latent space."}.in({1, 4096}).needed(),
      Field{"model.posterior",
            choice(model.posterior, {{"log_variance", Posterior::log_variance}, {"sigma", Posterior::sigma}}),
            "What the encoder's second head gives: log sigma^2, or sigma itself with any sign."},
      Field{"model.encoder", &model.encoder, "Hidden layers from the image on; two heads for mu and sigma follow."}
          .in({0, 64})
          .needed(),
      Field{"model.decoder", &model.decoder, "Hidden layers from z on; a layer that gives the pixels follows."}
          .in({0, 64})
          .needed(),
      Field{"model.likelihood",
            choice(model.likelihood, {{"bernoulli", Likelihood::bernoulli}, {"gaussian", Likelihood::gaussian}}),
            "p(x|z) of a pixel. bernoulli: the decoder gives logits. gaussian: it gives means."}
          .needed(),
      Field{"model.variance", NumberOrWord{&model.variance, &model.is_variance_learned, "learned"},
            "Variance of the Gaussian likelihood. learned: the decoder gives log variances, too, one for each pixel; a "
            "standard deviation is at least a grey level, 1 / 255."}
          .in(scale)
          .only_with("likelihood", {"gaussian"}),
      Field{"model.mean", choice(model.mean, {{"identity", PixelMean::identity}, {"sigmoid", PixelMean::sigmoid}}),
            "Means beside a learned variance. identity: as the decoder gives them. sigmoid: squashed to (0, 1)."}
          .only_with("variance", {"learned"}),
      Field{"model.initialization", Section{}, "The weights before training."},
      Field{
          "model.initialization.type",
          choice(model.initialization, {{"pytorch", Initialization::pytorch},
                                        {"glorot", Initialization::glorot},
                                        {"normal", Initialization::normal}}),
          "pytorch: uniform within 1 / sqrt(inputs), biases too. glorot: uniform within sqrt(6 / (inputs + outputs)), "
          "biases 0. normal: N(0, std^2), biases too."},
      Field{"model.initialization.std", &model.initialization_std, "Standard deviation of the initial weights."}
          .in(scale)
          .only_with("type", {"normal"}),

      Field{"objective", Section{}, "What is minimised, in nats for each image."},
      Field{"objective.type", choice(objective.type, {{"elbo", ObjectiveType::elbo}, {"iwae", ObjectiveType::iwae}}),
            "elbo: reconstruction + beta KL, the evidence lower bound with its KL in closed form. iwae: the negative "
            "importance-weighted bound (arXiv 1509.00519), log of the mean weight p(x, z) / q(z|x) of the samples."},
      Field{"objective.beta", &objective.beta, "Weight of the KL; 1 makes the objective the negative ELBO."}
          .in(not_negative)
          .only_with("type", {"elbo"}),
      Field{"objective.samples", &objective.samples,
            "Draws of z for each image: elbo takes the mean of their losses, in training; iwae the logarithm of the "
            "mean of their weights, in evaluation, too."}
          .in({1, 1024}),
      Field{"objective.kernels",
            choice(objective.kernels, {{"fused", LossVariant::fused},
                                       {"fused_log", LossVariant::fused_log},
                                       {"two_pass", LossVariant::two_pass},
                                       {"unfused", LossVariant::unfused}}),
            "Loss kernels. fused: value and gradient in one pass (with iwae in two), one logarithm for many pixels. "
            "fused_log: the same, one for each pixel. two_pass: a pass for the value, one for the gradient. unfused: "
            "one launch for each mathematical operation."},
      Field{"objective.weight_prior",
            choice(objective.weight_prior,
                   {{"none", WeightPrior::none}, {"standard_normal", WeightPrior::standard_normal}}),
            "standard_normal: adds -log N(weights; 0, I), shared out among the training images."},

      Field{"optimizer", Section{}, "How the weights move; the conventions are PyTorch's."},
      Field{"optimizer.type",
            choice(optimizer.type,
                   {{"adam", OptimizerType::adam}, {"adagrad", OptimizerType::adagrad}, {"sgd", OptimizerType::sgd}}),
            "The algorithm."}
          .needed(),
      Field{"optimizer.learning_rate", &optimizer.learning_rate, "Size of a step."}.in(positive).needed(),
      Field{"optimizer.beta1", &optimizer.beta1, "Decay of Adam's mean of gradients."}.in(below_one).only_with(
          "type", {"adam"}),
      Field{"optimizer.beta2", &optimizer.beta2, "Decay of Adam's mean of squared gradients."}.in(below_one).only_with(
          "type", {"adam"}),
      Field{"optimizer.epsilon", &optimizer.epsilon,
            "Added to the root of squared gradients. Default: 1e-8 with adam, 1e-10 with adagrad."}
          .in(positive)
          .default_varies()
          .only_with("type", {"adam", "adagrad"}),
      Field{"optimizer.momentum", &optimizer.momentum, "Decay of the sum of past gradients."}.in(below_one).only_with(
          "type", {"sgd"}),
      Field{"optimizer.weight_decay", &optimizer.weight_decay, "Adds weight_decay * weight to the gradient."}.in(
          not_negative),

      Field{"train", Section{}, "How long, and in which portions."},
      Field{"train.epochs", &train.epochs, "Passes through the training images."}.in({1, 1e6}).needed(),
      Field{"train.batch_size", &train.batch_size, "Images in a step."}.in({1, 65536}).needed(),
      Field{"train.precision",
            choice(train.precision, {{"fp32", Precision::fp32}, {"tf32", Precision::tf32}, {"bf16", Precision::bf16}}),
            "Of matrix products; everything else is fp32. A device without it says so."},
      Field{"train.checkpoint_epochs", &train.checkpoint_epochs,
            "Keep a checkpoint every so many epochs; then it is the last one, too. 0: only the last and the best."}
          .in({0, 1e6}),
      Field{"train.checkpoint_steps", &train.checkpoint_steps,
            "Write the last checkpoint every so many steps, too. 0: only every 30 s, at the end and on a signal."}
          .in({0, 1e9}),
  };
}

// The part of `path` before its last name, with the dot; the last name.
std::string parent(const std::string& path) { return path.substr(0, path.rfind('.') + 1); }
std::string leaf(const std::string& path) { return path.substr(path.rfind('.') + 1); }

template <class T>
const T* target(const Field& f) {
  return std::get_if<T>(&f.target);
}

bool is_integer(const Field& f) { return target<std::int64_t*>(f) || target<std::uint64_t*>(f); }

const Field* find(const Table& fields, const std::string& path) {
  const auto f = std::ranges::find(fields, path, &Field::path);
  return f == fields.end() ? nullptr : &*f;
}

const std::string& word(const Choice& c) {
  if (!c.value) return c.words[0];
  return c.words[static_cast<std::size_t>(std::ranges::find(c.values, *c.value) - c.values.begin())];
}

// The field that decides whether `f` has a meaning; null where it always has one.
const Field* owner(const Table& fields, const Field& f) {
  return f.owner.empty() ? nullptr : find(fields, parent(f.path) + f.owner);
}

// What is chosen in a field that others depend on, as JSON has it: "gaussian" in quotes, or a number.
std::string chosen(const Field& f) {
  if (const auto* n = target<NumberOrWord>(f)) return *n->is_word ? in_quotes(n->word) : number_text(*n->value);
  return in_quotes(word(*target<Choice>(f)));
}

bool has_meaning(const Table& fields, const Field& f) {
  const Field* by = owner(fields, f);
  if (!by) return true;
  const auto is_chosen = [&](const std::string& w) { return in_quotes(w) == chosen(*by); };
  return has_meaning(fields, *by) && std::ranges::any_of(f.owner_words, is_chosen);
}

// The shortest decimal that gives this float, so that 3e-4 stays 3e-4.
double as_decimal(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double decimal = 0;
  std::from_chars(text, end, decimal);
  return decimal;
}

// ---- Words ------------------------------------------------------------------------------------------------

std::string expected(const Field& f) {
  if (const auto* c = target<Choice>(f)) return any_of(c->words);
  if (target<std::string*>(f))
    return "a name of at most 64 letters, digits, '.', '_' and '-' that begins with a letter or digit";
  if (target<std::vector<LayerSpec>*>(f)) return cat("a list of at most ", number_text(f.range.high), " layers");
  const Range& r = f.range;
  const char* up_to = !r.high_included ? " to below " : r.low_included ? " to " : " and at most ";
  const auto* either = target<NumberOrWord>(f);
  return cat(either ? in_quotes(either->word) + " or " : "", is_integer(f) ? "an integer" : "a number",
             r.low_included ? " from " : " above ", number_text(r.low), up_to, number_text(r.high));
}

// ---- Reading ----------------------------------------------------------------------------------------------

// "path.to.field=value", from the command line.
struct Override {
  std::string text, path;
};

bool is_name(const std::string& text) {
  const auto is_letter = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  const auto is_sign = [](char c) { return c == '.' || c == '_' || c == '-'; };
  return !text.empty() && text.size() <= 64 && is_letter(text[0]) &&
         std::ranges::all_of(text, [&](char c) { return is_letter(c) || is_sign(c); });
}

class Reader {
 public:
  explicit Reader(std::string file) : file_(std::move(file)) {}

  Json parse(const std::string& text) {
    std::vector<RepeatedName> repeated;
    Json json = parse_json(text, file_, repeated);
    for (const RepeatedName& r : repeated) {
      problem(r.path, r.place, "given twice; first on line ", r.first.line);
    }
    return json;
  }

  void apply(Json& root, const std::string& text) {
    const std::size_t equals = text.find('=');
    const Override o{text, text.substr(0, equals)};
    try {
      require(equals != text.npos && equals > 0, "expected path=value, like train.epochs=5");
      require(("." + o.path + ".").find("..") == std::string::npos, "expected names between dots, like train.epochs=5");
      place(root, o.path) = value(text.substr(equals + 1));
      overrides_.push_back(o);
    } catch (const Error& e) {
      problems_.push_back({after_the_file, cat("--set ", text, ": ", e.what())});
    }
  }

  // Reads `json`, which stands at `base` ("" or "model.encoder.0."), into the targets of `fields`.
  void read(const Json& json, const std::string& base, const Table& fields) {
    Seen seen;
    read_section(json, base, "", fields, seen);
    for (const Field& f : fields) {
      const auto it = seen.find(f.path);
      if (it == seen.end()) {
        if (f.required) missing(base, f, seen);
      } else if (!has_meaning(fields, f)) {
        // Fields depend on each other in a chain: of this one's, the first that lacks its owner's word.
        const Field* first = &f;
        while (!has_meaning(fields, *owner(fields, *first))) first = owner(fields, *first);
        const std::string by = parent(first->path) + first->owner;
        const bool is_told =
            (first != &f && seen.contains(first->path)) || (seen.contains(by) && !seen.at(by).understood);
        if (is_told) continue;
        problem(base + f.path, it->second.place, "only with ", first->owner, " ", any_of(first->owner_words),
                "; here it is ", chosen(*owner(fields, *first)));
      }
    }
  }

  // Where each field that was given was given: Spec::given.
  const std::map<std::string, std::string>& given() const { return given_; }

  // Throws what was found wrong, in the order of the file.
  void finish() {
    if (problems_.empty()) return;
    std::ranges::stable_sort(problems_, {}, [](const Problem& p) { return std::pair(p.place.line, p.place.column); });
    std::string text;
    for (const Problem& p : problems_) text += (text.empty() ? "" : "\n") + p.text;
    if (left_out_ > 0) text += cat("\n", file_, ": and ", left_out_, " more mistakes");
    fail(text);
  }

 private:
  struct Problem {
    Place place;
    std::string text;
  };
  static constexpr Place after_the_file{std::numeric_limits<int>::max(), 0};

  struct Sighting {
    Place place;
    bool understood;
  };
  using Seen = std::map<std::string, Sighting>;  // by Field::path; "" is the whole object

  template <class... Args>
  void problem(const std::string& path, Place place, const Args&... args) {
    problem_of(path, path, place, args...);
  }

  // shown: the path as a message has it, with odd names in quotes.
  template <class... Args>
  void problem_of(const std::string& path, const std::string& shown, Place place, const Args&... args) {
    if (is_full()) return;
    problems_.push_back({overridden(path, place) ? after_the_file : place,
                         cat(where(path, place), ": ", shown, shown.empty() ? "" : ": ", args...)});
  }

  // "spec.json:3", or "--set train.epochs=5" where that gave the value.
  std::string where(const std::string& path, Place place) const {
    if (const std::string* given = overridden(path, place)) return "--set " + *given;
    return place.line ? cat(file_, ":", place.line) : file_;
  }

  // Whether enough has been told; if so, one more is left out.
  bool is_full() {
    constexpr std::size_t most = 100;
    if (problems_.size() < most) return false;
    ++left_out_;
    return true;
  }

  // The override that put a value at or above `path`, or, where it made the object at `path`, below.
  const std::string* overridden(const std::string& path, Place place) const {
    const std::string* text = nullptr;
    for (const Override& o : overrides_) {
      const bool above = (path + ".").starts_with(o.path + ".");
      const bool below = place.line == 0 && o.path.starts_with(path + ".");
      if (above || below) text = &o.text;
    }
    return text;
  }

  void read_section(const Json& json, const std::string& base, const std::string& section, const Table& fields,
                    Seen& seen) {
    const auto* object = json.as<Json::Object>();
    const std::string at = base + section;
    seen[section] = {json.place, object != nullptr};
    if (!object) {
      return problem(at.substr(0, at.size() - !at.empty()), json.place, "expected an object, found ", describe(json));
    }
    for (const Json::Member& m : *object) {
      const Field* f = find(fields, section + m.name);
      if (!f || m.name.find('.') != std::string::npos) {
        if (at + m.name != "$schema") {
          unknown(base, section, m, fields);
        } else if (!m.value.as<std::string>()) {
          problem("$schema", m.value.place, "expected text, found ", describe(m.value));
        }
      } else if (target<Section>(*f)) {
        read_section(m.value, base, f->path + ".", fields, seen);
      } else {
        seen[f->path] = {m.place, read_value(m.value, base + f->path, *f)};
        given_[base + f->path] = where(base + f->path, m.value.place);
      }
    }
  }

  void unknown(const std::string& base, const std::string& section, const Json::Member& m, const Table& fields) {
    if (is_full()) return;
    Words here, elsewhere;
    for (const Field& f : fields) {
      if (parent(f.path) == section) here.push_back(leaf(f.path));
      if (leaf(f.path) == m.name) elsewhere.push_back(base + f.path);
    }
    std::string help = suggestion(m.name, here);
    if (help.empty())
      help = elsewhere.empty() ? "; known here: " + any_of(here) : "; did you mean " + any_of(elsewhere) + "?";
    problem_of(base + section + m.name, base + section + path_name(m.name), m.place, "unknown field", help);
  }

  void missing(const std::string& base, const Field& f, const Seen& seen) {
    std::string section = parent(f.path);
    while (!seen.contains(section)) section = parent(section.substr(0, section.size() - 1));
    if (!seen.at(section).understood) return;
    problem(base + f.path, seen.at(section).place, "missing; expected ", expected(f));
  }

  // False, and a problem, unless `json` is what `f` expects.
  bool read_value(const Json& json, const std::string& path, const Field& f) {
    const auto refuse = [&](const std::string& help = "") {
      problem(path, json.place, "expected ", expected(f), ", found ", describe(json), help);
      return false;
    };
    const auto* text = json.as<std::string>();
    if (const auto* c = target<Choice>(f)) {
      if (!text) return refuse();
      const auto found = std::ranges::find(c->words, *text);
      if (found == c->words.end()) return refuse(suggestion(*text, c->words));
      if (c->value) *c->value = c->values[static_cast<std::size_t>(found - c->words.begin())];
      return true;
    }
    if (const auto* s = target<std::string*>(f)) {
      if (!text || !is_name(*text)) return refuse();
      **s = *text;
      return true;
    }
    if (const auto* layers = target<std::vector<LayerSpec>*>(f)) {
      const auto* list = json.as<Json::Array>();
      if (!list) return refuse();
      if (static_cast<double>(list->size()) > f.range.high) return refuse(cat(" of ", list->size()));
      read_layers(*list, path, **layers);
      return true;
    }
    const auto* either = target<NumberOrWord>(f);
    if (either) *either->is_word = text && *text == either->word;
    if (either && *either->is_word) return true;
    const auto* value = json.as<double>();
    if (!value && either && text) return refuse(suggestion(*text, {either->word}));
    if (!value || (is_integer(f) && std::trunc(*value) != *value)) return refuse();
    const auto inside = [&r = f.range](double v) {
      return (r.low_included ? v >= r.low : v > r.low) && (r.high_included ? v <= r.high : v < r.high);
    };
    if (!inside(*value)) return refuse();
    double v = target<float*>(f) ? static_cast<float>(*value) : *value;
    if (f.range.high_included && v > f.range.high) v = f.range.high;  // 1e30 is a little more as a float
    if (!inside(v)) return refuse(cat(", which is ", v, " as a float"));
    if (auto* p = target<float*>(f)) **p = static_cast<float>(v);
    if (auto* p = target<double*>(f)) **p = v;
    if (either) *either->value = v;
    if (auto* p = target<std::int64_t*>(f)) **p = static_cast<std::int64_t>(v);
    if (auto* p = target<std::uint64_t*>(f)) **p = static_cast<std::uint64_t>(v);
    return true;
  }

  void read_layers(const Json::Array& list, const std::string& path, std::vector<LayerSpec>& layers) {
    layers.assign(list.size(), {});
    for (std::size_t i = 0; i < list.size(); ++i) {
      const std::string base = cat(path, ".", i, ".");
      const Table fields = table(layers[i]);
      // Of a layer of another type the other fields cannot be judged.
      const Json* const type = list[i].find("type");
      if (!type || read_value(*type, base + "type", *find(fields, "type"))) read(list[i], base, fields);
    }
  }

  // The value at `path`; objects on the way are made where there is nothing.
  static Json& place(Json& root, const std::string& path) {
    Json* json = &root;
    for (std::size_t begin = 0, end; begin <= path.size(); begin = end + 1) {
      end = std::min(path.find('.', begin), path.size());
      const std::string name = path.substr(begin, end - begin);
      const std::string so_far = begin ? path.substr(0, begin - 1) : "the experiment";
      if (auto* list = std::get_if<Json::Array>(&json->value)) {
        std::size_t i = list->size();
        const auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), i);
        if (error != std::errc() || *stop != 0 || i >= list->size())
          fail(so_far, " is a list of ", list->size(), "; expected a number below that in place of ", in_quotes(name));
        json = &(*list)[i];
        continue;
      }
      auto* object = std::get_if<Json::Object>(&json->value);
      if (!object) fail(so_far, " is ", describe(*json), " and has no field ", in_quotes(name));
      Json* member = json->find(name);
      json = member ? member : &object->emplace_back(Json::Member{name, Json{Json::Object(), {}}, {}}).value;
    }
    return *json;
  }

  // JSON, or a bare word, which is text.
  static Json value(const std::string& text) {
    const bool numeric = !text.empty() && text.find_first_not_of("0123456789+-.eE") == text.npos;
    try {
      return parse_json(text, "value");
    } catch (const Error&) {
      if (numeric || text.find_first_of("\"{}[],:") != text.npos) throw;
      return Json{text, {}};
    }
  }

  std::string file_;
  std::vector<Override> overrides_;
  std::vector<Problem> problems_;
  std::size_t left_out_ = 0;  // problems beyond the most that are told
  std::map<std::string, std::string> given_;
};

// ---- Writing ----------------------------------------------------------------------------------------------

ordered_json to_object(const Table& fields);

ordered_json value_of(const Field& f) {
  if (const auto* c = target<Choice>(f)) return word(*c);
  if (const auto* p = target<std::string*>(f)) return **p;
  if (const auto* p = target<std::int64_t*>(f)) return **p;
  if (const auto* p = target<std::uint64_t*>(f)) return **p;
  if (const auto* p = target<float*>(f)) return as_decimal(**p);
  if (const auto* p = target<double*>(f)) return **p;
  if (const auto* n = target<NumberOrWord>(f)) return *n->is_word ? ordered_json(n->word) : ordered_json(*n->value);
  auto list = ordered_json::array();
  for (LayerSpec layer : **target<std::vector<LayerSpec>*>(f)) list.push_back(to_object(table(layer)));
  return list;
}

ordered_json to_object(const Table& fields) {
  ordered_json object;
  for (const Field& f : fields) {
    if (target<Section>(f) || !has_meaning(fields, f)) continue;
    std::string pointer = "/" + f.path;
    std::ranges::replace(pointer, '.', '/');
    object[ordered_json::json_pointer(pointer)] = value_of(f);
  }
  return object;
}

// JSON text as a person would lay it out: on one line what fits there.
std::string lay_out(const ordered_json& json, std::size_t indent) {
  if (json.is_number_float()) return number_text(json.get<double>());
  if (!json.is_structured() || json.empty()) return json.dump();
  const bool object = json.is_object();
  std::vector<std::string> parts;
  std::size_t length = indent + 4;
  for (const auto& [name, value] : json.items()) {
    parts.push_back((object ? ordered_json(name).dump() + ": " : "") + lay_out(value, indent + 2));
    length += parts.back().size() + 2;
  }
  const bool fits = indent > 0 && length <= 110 &&
                    std::ranges::none_of(parts, [](const std::string& p) { return p.find('\n') != p.npos; });
  const std::string gap = fits ? " " : "\n" + std::string(indent + 2, ' ');
  std::string text = object ? "{" : "[";
  for (std::size_t i = 0; i < parts.size(); ++i) text += (i ? "," : "") + gap + parts[i];
  text += fits ? " " : "\n" + std::string(indent, ' ');
  return text + (object ? "}" : "]");
}

// ---- Schema -----------------------------------------------------------------------------------------------

ordered_json schema_of(const Table& fields, const std::string& section);

ordered_json schema_of(const Field& f) {
  ordered_json s;
  s["description"] = f.description;
  if (target<std::string*>(f)) {
    s["type"] = "string";
    s["pattern"] = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$";
  } else if (const auto* c = target<Choice>(f)) {
    s["enum"] = c->words;
  } else if (target<std::vector<LayerSpec>*>(f)) {
    LayerSpec layer;
    s["type"] = "array";
    s["maxItems"] = static_cast<std::int64_t>(f.range.high);
    s["items"] = schema_of(table(layer), "");
  } else {
    const Range& r = f.range;
    const auto bound = [&](double b) {
      return is_integer(f) ? ordered_json(static_cast<std::int64_t>(b)) : ordered_json(b);
    };
    ordered_json number;
    number["type"] = is_integer(f) ? "integer" : "number";
    number[r.low_included ? "minimum" : "exclusiveMinimum"] = bound(r.low);
    number[r.high_included ? "maximum" : "exclusiveMaximum"] = bound(r.high);
    if (const auto* either = target<NumberOrWord>(f)) {
      s["anyOf"] = {{{"enum", {either->word}}}, number};
    } else {
      s.update(number);
    }
  }
  if (!f.required && f.fixed_default) s["default"] = value_of(f);
  return s;
}

ordered_json schema_of(const Table& fields, const std::string& section) {
  ordered_json properties, dependencies;
  auto required = ordered_json::array();
  for (const Field& f : fields) {
    if (parent(f.path) != section) continue;
    const std::string name = leaf(f.path);
    if (target<Section>(f)) {
      properties[name]["description"] = f.description;
      properties[name].update(schema_of(fields, f.path + "."));
    } else {
      properties[name] = schema_of(f);
    }
    if (f.required || properties[name].contains("required")) required.push_back(name);
    if (!f.owner.empty()) {
      if (!has_meaning(fields, f)) dependencies[name]["required"] = {f.owner};  // the default is another word
      dependencies[name]["properties"][f.owner]["enum"] = f.owner_words;
    }
  }
  ordered_json s = {{"type", "object"}, {"additionalProperties", false}};
  if (!required.empty()) s["required"] = required;
  s["properties"] = properties;
  if (!dependencies.empty()) s["dependencies"] = dependencies;
  return s;
}

}  // namespace

std::string Spec::where(const std::string& field) const {
  const auto found = given.find(field);
  return found == given.end() ? field : found->second + ": " + field;
}

std::string objective_text(const Spec& spec) {
  const auto& objective = spec.objective;
  switch (objective.type) {
    case ObjectiveType::elbo:
      return objective.beta == 1 ? "reconstruction + KL"
                                 : cat("reconstruction + ", number_text(objective.beta), " · KL");
    case ObjectiveType::iwae:
      return cat("the negative importance-weighted bound of ", objective.samples,
                 objective.samples == 1 ? " sample" : " samples");
  }
  fail("an objective of no type");
}

Spec load_spec(const std::string& path, const std::vector<std::string>& overrides) {
  constexpr std::uint64_t largest = 1 << 20;
  std::string text;
  if (path == "-") {
    std::array<char, 4096> chunk;
    while (const std::size_t n = std::fread(chunk.data(), 1, chunk.size(), stdin)) {
      text.append(chunk.data(), n);
      require(text.size() <= largest, "standard input: an experiment has at most ", largest, " bytes");
    }
    if (std::ferror(stdin)) fail_call(errno, "standard input", "cannot be read");
    return parse_spec(text, "standard input", overrides);
  }
  const InputFile file(path);
  require(file.size() <= largest, path, ": has ", file.size(), " bytes; an experiment has at most ", largest);
  text.resize(file.size());
  file.read(0, text.data(), text.size());
  return parse_spec(text, path, overrides);
}

Spec parse_spec(const std::string& text, const std::string& file, const std::vector<std::string>& overrides) {
  Reader reader(file);
  Json json = reader.parse(text);
  for (const std::string& o : overrides) reader.apply(json, o);

  Spec spec;
  constexpr float not_given = -1;
  spec.optimizer.epsilon = not_given;
  reader.read(json, "", table(spec));
  reader.finish();
  spec.given = reader.given();
  if (spec.optimizer.epsilon == not_given) {  // PyTorch's defaults
    spec.optimizer.epsilon = spec.optimizer.type == OptimizerType::adagrad ? 1e-10f : 1e-8f;
  }
  return spec;
}

std::string to_json(const Spec& spec) {
  Spec copy = spec;  // a table can write to its targets
  return lay_out(to_object(table(copy)), 0) + "\n";
}

std::string spec_schema() {
  Spec defaults;
  ordered_json schema = {
      {"$schema", "http://json-schema.org/draft-07/schema#"},
      {"title", "elbo experiment"},
      {"description", "One experiment. Made by `elbo schema` from the table in host/spec/spec.cpp."}};
  schema.update(schema_of(table(defaults), ""));
  schema["properties"]["$schema"] = {{"description", "This schema, for editors."}, {"type", "string"}};
  return lay_out(schema, 0) + "\n";
}

}  // namespace elbo

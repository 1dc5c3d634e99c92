// The spec: what is read, what is written, and every kind of mistake with the words that name it.
#include "host/spec/spec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "elbo/error.h"
#include "host/base/json.h"
#include "tests/errors.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;
using testing::TestWithParam;

// Every required field and no other, each on a line of its own.
const std::string smallest = R"({
  "name": "tiny",
  "data": { "dataset": "mnist" },
  "model": {
    "latent": 2,
    "encoder": [ { "type": "dense", "units": 8 } ],
    "decoder": [ { "type": "dense", "units": 8 } ],
    "likelihood": "bernoulli"
  },
  "optimizer": {
    "type": "adam",
    "learning_rate": 3e-4
  },
  "train": {
    "epochs": 1,
    "batch_size": 4
  }
})";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, text.npos) << from;
  return text.replace(at, from.size(), to);
}

std::string error_of(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    parse_spec(text, "x.json", overrides);
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<fs::path> experiments() {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator("experiments")) {
    const std::string name = entry.path().filename();
    if (name.ends_with(".json") && !name.ends_with(".schema.json")) paths.push_back(entry.path());
  }
  std::ranges::sort(paths);
  return paths;
}

// ---- What is read -----------------------------------------------------------------------------------------

TEST(Spec, SaysWhatIsMinimised) {
  const auto text = [](const std::vector<std::string>& overrides) {
    return objective_text(parse_spec(smallest, "x.json", overrides));
  };
  EXPECT_EQ(text({}), "reconstruction + KL");
  EXPECT_EQ(text({"objective.beta=0.5"}), "reconstruction + 0.5 · KL");
  EXPECT_EQ(text({"objective.type=iwae", "objective.samples=5"}),
            "the negative importance-weighted bound of 5 samples");
  EXPECT_EQ(text({"objective.type=iwae"}), "the negative importance-weighted bound of 1 sample");
}

TEST(Spec, KnowsWhereAFieldWasGiven) {
  const Spec s = parse_spec(smallest, "x.json", {"train.epochs=5", "optimizer={\"type\":\"sgd\",\"learning_rate\":1}"});
  EXPECT_EQ(s.where("train.batch_size"), "x.json:16: train.batch_size");
  EXPECT_EQ(s.where("model.encoder"), "x.json:6: model.encoder");
  EXPECT_EQ(s.where("train.epochs"), "--set train.epochs=5: train.epochs");
  EXPECT_EQ(s.where("optimizer.learning_rate"),
            "--set optimizer={\"type\":\"sgd\",\"learning_rate\":1}: optimizer.learning_rate");
  EXPECT_EQ(s.where("objective.beta"), "objective.beta") << "its default";
}

TEST(Spec, DefaultsFillInWhatIsNotGiven) {
  const Spec s = parse_spec(smallest, "x.json");
  EXPECT_EQ(s.name, "tiny");
  EXPECT_EQ(s.seed, 0u);
  EXPECT_EQ(s.data.split, Split::holdout);
  EXPECT_EQ(s.data.residency, Residency::automatic);
  EXPECT_EQ(s.model.posterior, Posterior::log_variance);
  EXPECT_EQ(s.model.encoder.at(0).units, 8);
  EXPECT_EQ(s.model.encoder.at(0).activation, Activation::relu);
  EXPECT_EQ(s.model.initialization, Initialization::pytorch);
  EXPECT_EQ(s.objective.beta, 1.0);
  EXPECT_EQ(s.objective.kernels, LossVariant::fused);
  EXPECT_EQ(s.optimizer.learning_rate, 3e-4f);
  EXPECT_EQ(s.optimizer.beta2, 0.999);
  EXPECT_EQ(s.optimizer.epsilon, 1e-8f);
  EXPECT_EQ(s.train.precision, Precision::fp32);
}

TEST(Spec, EveryFieldIsRead) {
  const Spec s = parse_spec(R"({
    "$schema": "./experiment.schema.json",
    "name": "a.b-c_1", "seed": 9007199254740991,
    "data": { "dataset": "freyface", "split": "none", "binarize": "dynamic", "residency": "stream" },
    "model": {
      "latent": 4096, "posterior": "sigma",
      "encoder": [ { "type": "dense", "units": 65536, "activation": "tanh" },
                   { "type": "dense", "units": 1, "activation": "softplus" } ],
      "decoder": [], "likelihood": "gaussian", "variance": 0.25,
      "initialization": { "type": "normal", "std": 0.02 }
    },
    "objective": { "type": "elbo", "beta": 0, "samples": 5, "kernels": "unfused", "weight_prior": "standard_normal" },
    "optimizer": { "type": "sgd", "learning_rate": 1, "momentum": 0.9, "weight_decay": 0.5 },
    "train": { "epochs": 1000000, "batch_size": 65536, "precision": "bf16", "checkpoint_epochs": 7,
               "checkpoint_steps": 11 }
  })",
                            "x.json");
  EXPECT_EQ(s.name, "a.b-c_1");
  EXPECT_EQ(s.seed, 9007199254740991u);
  EXPECT_EQ(s.data.dataset, "freyface");
  EXPECT_EQ(s.data.split, Split::none);
  EXPECT_EQ(s.data.binarize, Binarize::dynamic);
  EXPECT_EQ(s.data.residency, Residency::stream);
  EXPECT_EQ(s.model.latent, 4096);
  EXPECT_EQ(s.model.posterior, Posterior::sigma);
  ASSERT_EQ(s.model.encoder.size(), 2u);
  EXPECT_EQ(s.model.encoder[0].units, 65536);
  EXPECT_EQ(s.model.encoder[0].activation, Activation::tanh);
  EXPECT_EQ(s.model.encoder[1].activation, Activation::softplus);
  EXPECT_TRUE(s.model.decoder.empty());
  EXPECT_EQ(s.model.likelihood, Likelihood::gaussian);
  EXPECT_EQ(s.model.variance, 0.25);
  EXPECT_EQ(s.model.initialization, Initialization::normal);
  EXPECT_EQ(s.model.initialization_std, 0.02);
  EXPECT_EQ(s.objective.beta, 0.0);
  EXPECT_EQ(s.objective.samples, 5);
  EXPECT_EQ(s.objective.kernels, LossVariant::unfused);
  EXPECT_EQ(s.objective.weight_prior, WeightPrior::standard_normal);
  EXPECT_EQ(s.optimizer.type, OptimizerType::sgd);
  EXPECT_EQ(s.optimizer.learning_rate, 1.0f);
  EXPECT_EQ(s.optimizer.momentum, 0.9f);
  EXPECT_EQ(s.optimizer.weight_decay, 0.5f);
  EXPECT_EQ(s.train.epochs, 1000000);
  EXPECT_EQ(s.train.batch_size, 65536);
  EXPECT_EQ(s.train.precision, Precision::bf16);
  EXPECT_EQ(s.train.checkpoint_epochs, 7);
  EXPECT_EQ(s.train.checkpoint_steps, 11);
  EXPECT_EQ(to_json(parse_spec(to_json(s), "again")), to_json(s));
}

TEST(Spec, AVarianceIsANumberOrLearned) {
  const std::string learned = replaced(smallest, "\"bernoulli\"", R"("gaussian", "variance": "learned")");
  const Spec s = parse_spec(learned, "x");
  EXPECT_TRUE(s.model.is_variance_learned);
  EXPECT_EQ(s.model.mean, PixelMean::identity);
  EXPECT_NE(to_json(s).find(R"("variance": "learned")"), std::string::npos) << to_json(s);
  EXPECT_EQ(to_json(parse_spec(to_json(s), "again")), to_json(s));
  EXPECT_EQ(parse_spec(learned, "x", {"model.mean=sigmoid"}).model.mean, PixelMean::sigmoid);
  const Spec number = parse_spec(learned, "x", {"model.variance=0.5"});
  EXPECT_FALSE(number.model.is_variance_learned);
  EXPECT_EQ(number.model.variance, 0.5);
  EXPECT_EQ(to_json(number).find("\"mean\""), std::string::npos) << to_json(number);
}

TEST(Spec, EpsilonDefaultsToPyTorchsForTheOptimiser) {
  EXPECT_EQ(parse_spec(replaced(smallest, "adam", "adagrad"), "x").optimizer.epsilon, 1e-10f);
  const std::string given = replaced(smallest, "3e-4", "3e-4, \"epsilon\": 1e-4");
  EXPECT_EQ(parse_spec(replaced(given, "adam", "adagrad"), "x").optimizer.epsilon, 1e-4f);
}

// ---- What is written --------------------------------------------------------------------------------------

TEST(Spec, TheResolvedSpecReadsBackTheSame) {
  for (const fs::path& path : experiments()) {
    const std::string resolved = to_json(load_spec(path));
    EXPECT_EQ(to_json(parse_spec(resolved, "resolved")), resolved) << path;
  }
}

TEST(Spec, NumbersAreWrittenAsShortAsTheyReadBack) {
  const auto has = [](const std::string& text, const std::string& part) { return text.find(part) != text.npos; };
  const std::string adam = to_json(parse_spec(smallest, "x"));
  EXPECT_TRUE(has(adam, "\"learning_rate\": 3e-4,")) << adam;
  EXPECT_TRUE(has(adam, "\"beta2\": 0.999,")) << adam;
  EXPECT_TRUE(has(adam, "\"epsilon\": 1e-8,")) << adam;

  std::mt19937 bits(1);
  for (int i = 0; i < 2000; ++i) {
    const std::uint32_t pattern = bits() & 0x7FFFFFFF;
    float rate;
    std::memcpy(&rate, &pattern, sizeof rate);
    if (!(rate > 0 && rate <= 1e30f)) continue;
    Spec s = parse_spec(smallest, "x");
    s.optimizer.learning_rate = rate;
    s.objective.beta = rate * (1 + 1e-9);
    const Spec back = parse_spec(to_json(s), "x");
    ASSERT_EQ(back.optimizer.learning_rate, rate);
    ASSERT_EQ(back.objective.beta, s.objective.beta);
  }
}

TEST(Spec, ToJsonLeavesOutWhatHasNoMeaning) {
  const std::string adam = to_json(parse_spec(smallest, "x"));
  for (const char* name : {"momentum", "\"variance\"", "\"std\""}) EXPECT_EQ(adam.find(name), adam.npos) << name;
  const std::string sgd = to_json(parse_spec(replaced(smallest, "adam", "sgd"), "x"));
  for (const char* name : {"beta1", "beta2", "epsilon"}) EXPECT_EQ(sgd.find(name), sgd.npos) << name;
  EXPECT_NE(sgd.find("momentum"), sgd.npos);
}

// ---- The committed files ----------------------------------------------------------------------------------

TEST(Experiments, AllLoadAndAreNamedLikeTheirFiles) {
  EXPECT_GE(experiments().size(), 8u);
  for (const fs::path& path : experiments()) {
    try {
      EXPECT_EQ(load_spec(path).name, path.stem());
    } catch (const Error& e) {
      ADD_FAILURE() << e.what();
    }
  }
}

TEST(Experiments, EachHasItsRowInTheReadme) {
  const std::string readme = read("experiments/README.md");
  for (const fs::path& path : experiments()) {
    EXPECT_NE(readme.find("| [" + path.stem().string() + "](" + path.filename().string() + ")"), readme.npos) << path;
  }
}

TEST(Experiments, TheSchemaIsTheOneThatTheProgramEmits) {
  EXPECT_EQ(read("experiments/experiment.schema.json"), spec_schema())
      << "run: elbo schema > experiments/experiment.schema.json";
}

// Whether an error has a line for each of these mistakes, and no more; `mistakes`: the same, as says() takes them.
testing::AssertionResult tells(const std::string& error, const std::string& mistakes) {
  std::istringstream said(error), meant(mistakes);
  for (std::string line, mistake; std::getline(meant, mistake);) {
    if (!std::getline(said, line)) return testing::AssertionFailure() << "not told: " << mistake << "\nin: " << error;
    if (const auto result = test::says(line, mistake); !result) return result;
  }
  if (said.peek() != EOF) return testing::AssertionFailure() << "more is told than " << mistakes << "\nin: " << error;
  return testing::AssertionSuccess();
}

// ---- JSON that does not parse -----------------------------------------------------------------------------

struct Case {
  std::string text, error;
};

class BadJson : public TestWithParam<Case> {};

TEST_P(BadJson, IsNamedWithLineAndColumn) { EXPECT_TRUE(tells(error_of(GetParam().text), GetParam().error)); }

const Case bad_json[] = {
    {"", "x.json:1:1: ... empty ... { }"},
    {" \n\t ", "x.json:2:3: ... empty ... { }"},
    {"{\n  \"name\": \"a\"", "x.json:2:14: ... ',' or '}' ... ends"},
    {"{\n  \"name\" 5 }", "x.json:2:10: ... ':' ... 5"},
    {"{\n  \"seed\": 1\n  \"name\": 2 }", "x.json:3:3: ... ',' or '}' ... text in double quotes"},
    {"{ \"seed\": 1, }", "x.json:1:14: ... field name ... '}'"},
    {"{ \"ä\": [ 1 2 ] }", "x.json:1:12: ... ',' or ']' ... 2"},
    {"{ \"seed\": [1, ] }", "x.json:1:15: ... value ... ']'"},
    {"{ seed: 1 }", "x.json:1:3: ... field name ... '}' ... seed ... double quotes"},
    {"{ 'seed': 1 }", "x.json:1:3: ... field name ... '}' ... ''' ... double quotes"},
    {"{ \"seed\": NaN }", "x.json:1:11: ... value ... NaN ... no NaN"},
    {"{ \"seed\": -Infinity }", "x.json:1:11: ... value ... -Infinity ... no NaN"},
    {"{ \"seed\": 1e999 }", "x.json:1:11: ... 1e999 ... range"},
    {"{ \"seed\": -1e999 }", "x.json:1:11: ... -1e999 ... range"},
    {"{ \"seed\": 01 }", "x.json:1:12: ... ',' or '}' ... 1"},
    {"{ \"seed\": .5 }", "x.json:1:11: ... value ... .5 ... 0.5"},
    {"{ \"seed\": 0x10 }", "x.json:1:12: ... ',' or '}' ... x10"},
    {"{ \"seed\": True }", "x.json:1:11: ... value ... True ... small letters"},
    {"{ // seed\n}", "x.json:1:3: ... field name ... '}' ... '/' ... no comments"},
    {"{} {}", "x.json:1:4: ... end of the text ... '{'"},
    {"{}\n#", "x.json:2:1: ... end of the text ... '#' ... no comments"},
    {std::string("{}\0{}", 5), "x.json:1:3: ... zero byte"},
    {"{ \"seed\": \"a\n\" }", "x.json:1:11: ... no closing '\"'"},
    {"{ \"seed\": \"a\tb\" }", "x.json:1:13: ... byte 9"},
    {"{ \"seed\": \"\\q\" }", "x.json:1:13: ... escape ... '\\\\'"},
    {"{ \"seed\": \"\xC3(\" }", "x.json:1:13: ... UTF-8"},
    {"{ \"seed\": \xFF }", "x.json:1:11: ... value ... byte 255"},
    {"\x1F\x8B", "x.json:1:1: ... JSON value ... byte 31"},
    {"5", "x.json:1: ... object ... 5"},
    {"[]", "x.json:1: ... object ... a list"},
};
INSTANTIATE_TEST_SUITE_P(Spec, BadJson, testing::ValuesIn(bad_json));

TEST(BadJsonFiles, DeepNestingIsRefusedAtOnce) {
  const auto start = std::chrono::steady_clock::now();
  const std::string deep(200000, '['), objects = [] {
    std::string text;
    for (int i = 0; i < 200000; ++i) text += "{\"a\":";
    return text;
  }();
  EXPECT_TRUE(tells(error_of(deep), "x.json:1:65: ... 64 levels"));
  EXPECT_TRUE(tells(error_of(objects), "x.json:1:321: ... 64 levels"));
  EXPECT_EQ(error_of(smallest, {"seed=" + deep}).find("--set seed=[[["), 0u);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(BadJsonFiles, AByteOrderMarkIsAllowed) { EXPECT_EQ(error_of("\xEF\xBB\xBF" + smallest), "accepted"); }

TEST(BadJsonFiles, WhatIsNoSpecFileIsNamed) {
  const auto error = [](const std::string& path) -> std::string {
    try {
      load_spec(path);
    } catch (const Error& e) {
      return e.what();
    }
    return "accepted";
  };
  EXPECT_EQ(error("experiments/none.json").find("experiments/none.json: cannot be opened"), 0u);
  EXPECT_TRUE(tells(error("experiments"), "experiments: ... folder"));

  const fs::path large = fs::path(testing::TempDir()) / "large.json";
  std::ofstream(large) << smallest << std::string(1 << 20, ' ');
  EXPECT_NE(error(large).find("large.json: has 10"), std::string::npos) << error(large);
  fs::remove(large);
}

// ---- JSON that is no experiment -----------------------------------------------------------------------------

struct Edit {
  std::string from, to, error;
};

class BadField : public TestWithParam<Edit> {};

TEST_P(BadField, IsNamedWithLineAndPath) {
  EXPECT_TRUE(tells(error_of(replaced(smallest, GetParam().from, GetParam().to)), GetParam().error));
}

const Edit bad_fields[] = {
    // unknown
    {"\"epochs\"", "\"epocs\": 2, \"epochs\"", "x.json:15: train.epocs: ... unknown ... \"epochs\"?"},
    {"\"name\"", "\"train_\": 2, \"name\"", "x.json:2: train_: ... unknown ... \"train\"?"},
    {"\"name\"", "\"epochs\": 2, \"name\"", "x.json:2: epochs: ... unknown ... \"train.epochs\"?"},
    {"\"name\"", "\"train.epochs\": 2, \"name\"", "x.json:2: train.epochs: ... unknown ... \"name\" ... \"train\""},
    {"\"name\"", "\"a\\nb\": 2, \"name\"", "x.json:2: \"a\\nb\": ... unknown ... \"name\" ... \"train\""},
    {"\"units\": 8", "\"units\": 8, \"unit\": 8", "x.json:6: model.encoder.0.unit: ... unknown ... \"units\"?"},
    // given twice
    {"\"epochs\": 1", "\"epochs\": 1,\n\"epochs\": 2", "x.json:16: train.epochs: ... twice ... line 15"},
    {"\"units\": 8", "\"units\": 8, \"units\": 9", "x.json:6: model.encoder.0.units: ... twice ... line 6"},
    {"\"train\": {", "\"train\": {}, \"train\": {",
     "x.json:14: train.epochs: ... missing ... 1 to 1000000\n"
     "x.json:14: train.batch_size: ... missing ... 1 to 65536\n"
     "x.json:14: train: ... twice ... line 14"},
    // missing
    {"\"epochs\": 1,", "", "x.json:14: train.epochs: ... missing ... 1 to 1000000"},
    {"\"data\": { \"dataset\": \"mnist\" },", "",
     "x.json:1: data.dataset: ... missing ... 64 letters, digits, '.', '_' and '-'"},
    {"\"units\": 8", "\"activation\": \"relu\"", "x.json:6: model.encoder.0.units: ... missing ... 1 to 65536"},
    // mistyped
    {"\"epochs\": 1", "\"epochs\": \"1\"", "x.json:15: train.epochs: ... 1 to 1000000 ... \"1\""},
    {"\"epochs\": 1", "\"epochs\": 1.5", "x.json:15: train.epochs: ... 1 to 1000000 ... 1.5"},
    {"\"epochs\": 1", "\"epochs\": null", "x.json:15: train.epochs: ... 1 to 1000000 ... null"},
    {"\"epochs\": 1", "\"epochs\": [1]", "x.json:15: train.epochs: ... 1 to 1000000 ... a list"},
    {"3e-4", "true", "x.json:12: optimizer.learning_rate: ... above 0 ... 1e30 ... true"},
    {"{ \"dataset\": \"mnist\" }", "\"mnist\"", "x.json:3: data: ... object ... \"mnist\""},
    {"[ { \"type\": \"dense\", \"units\": 8 } ]", "8", "x.json:6: model.encoder: ... list ... 64 layers ... 8"},
    {"{ \"type\": \"dense\", \"units\": 8 }", "8", "x.json:6: model.encoder.0: ... object ... 8"},
    {"\"likelihood\": \"bernoulli\"", "\"likelihood\": 1",
     "x.json:8: model.likelihood: ... \"bernoulli\" or \"gaussian\" ... 1"},
    {"\"name\"", "\"$schema\": 5, \"name\"", "x.json:2: $schema: ... text ... 5"},
    // out of range
    {"\"epochs\": 1", "\"epochs\": 0", "x.json:15: train.epochs: ... 1 to 1000000 ... 0"},
    {"\"epochs\": 1", "\"epochs\": 1000001", "x.json:15: train.epochs: ... 1 to 1000000 ... 1000001"},
    {"\"epochs\": 1", "\"epochs\": 1e300", "x.json:15: train.epochs: ... 1 to 1000000 ... 1e300"},
    {"\"batch_size\": 4", "\"batch_size\": 65537", "x.json:16: train.batch_size: ... 1 to 65536 ... 65537"},
    {"\"latent\": 2", "\"latent\": 4097", "x.json:5: model.latent: ... 1 to 4096 ... 4097"},
    {"\"units\": 8", "\"units\": 65537", "x.json:6: model.encoder.0.units: ... 1 to 65536 ... 65537"},
    {"\"name\"", "\"seed\": 9007199254740992, \"name\"",
     "x.json:2: seed: ... 0 to 9007199254740991 ... 9007199254740992"},
    {"\"name\"", "\"seed\": -1, \"name\"", "x.json:2: seed: ... 0 to 9007199254740991 ... -1"},
    {"3e-4", "0", "x.json:12: optimizer.learning_rate: ... above 0 ... 1e30 ... 0"},
    {"3e-4", "-3e-4", "x.json:12: optimizer.learning_rate: ... above 0 ... 1e30 ... -3e-4"},
    {"3e-4", "1e-60", "x.json:12: optimizer.learning_rate: ... above 0 ... 1e30 ... 1e-60 ... 0 ... float"},
    {"3e-4", "1e39", "x.json:12: optimizer.learning_rate: ... above 0 ... 1e30 ... 1e39"},
    {"3e-4", "1, \"beta1\": 1", "x.json:12: optimizer.beta1: ... 0 to below 1 ... 1"},
    {"3e-4", "1, \"beta2\": 1.5", "x.json:12: optimizer.beta2: ... 0 to below 1 ... 1.5"},
    {"\"bernoulli\"", "\"gaussian\", \"variance\": 0", "x.json:8: model.variance: ... 1e-30 to 1e30 ... 0"},
    {"\"bernoulli\"", "\"gaussian\", \"variance\": \"lerned\"",
     "x.json:8: model.variance: ... \"learned\" or a number from 1e-30 to 1e30 ... \"lerned\" ... \"learned\"?"},
    {"\"bernoulli\"", "\"gaussian\", \"variance\": true", "x.json:8: model.variance: ... \"learned\" or ... true"},
    {"\"tiny\"", "\"../tiny\"", "x.json:2: name: ... 64 letters, digits, '.', '_' and '-' ... \"../tiny\""},
    {"\"mnist\"", "\"\"", "x.json:3: data.dataset: ... 64 letters, digits, '.', '_' and '-' ... \"\""},
    // misspelt words
    {"\"bernoulli\"", "\"bernouli\"",
     "x.json:8: model.likelihood: ... \"bernoulli\" or \"gaussian\" ... \"bernouli\" ... \"bernoulli\"?"},
    {"\"adam\"", "\"sdg\"", "x.json:11: optimizer.type: ... \"adam\", \"adagrad\" or \"sgd\" ... \"sdg\" ... \"sgd\"?"},
    {"\"adam\"", "\"lbfgs\"", "x.json:11: optimizer.type: ... \"adam\", \"adagrad\" or \"sgd\" ... \"lbfgs\""},
    // of a layer of another type, that alone
    {"\"type\": \"dense\", \"units\": 8", "\"type\": \"conv\", \"kernel\": 3",
     "x.json:6: model.encoder.0.type: ... \"dense\" ... \"conv\""},
    {"\"type\": \"dense\", \"units\": 8", "\"type\": \"dens\", \"units\": 8",
     "x.json:6: model.encoder.0.type: ... \"dense\" ... \"dens\" ... \"dense\"?"},
    {"\"bernoulli\"", "\"BERNOULLI\"", "x.json:8: model.likelihood: ... \"BERNOULLI\" ... \"bernoulli\"?"},
    // rules between fields
    {"\"bernoulli\"", "\"bernoulli\", \"variance\": 2",
     "x.json:8: model.variance: ... only with likelihood \"gaussian\" ... \"bernoulli\""},
    {"\"bernoulli\"", "\"bernoulli\", \"variance\": \"learned\"",
     "x.json:8: model.variance: ... only with likelihood \"gaussian\" ... \"bernoulli\""},
    {"\"bernoulli\"", "\"bernoulli\", \"mean\": \"sigmoid\"",
     "x.json:8: model.mean: ... only with likelihood \"gaussian\" ... \"bernoulli\""},
    {"\"bernoulli\"", "\"gaussian\", \"variance\": 0.5, \"mean\": \"sigmoid\"",
     "x.json:8: model.mean: ... only with variance \"learned\" ... here it is 0.5"},
    {"\"latent\": 2", "\"latent\": 2, \"initialization\": { \"type\": \"glorot\", \"std\": 1 }",
     "x.json:5: model.initialization.std: ... only with type \"normal\" ... \"glorot\""},
    {"\"latent\": 2", "\"latent\": 2, \"initialization\": { \"std\": 1 }",
     "x.json:5: model.initialization.std: ... only with type \"normal\" ... \"pytorch\""},
    {"\"optimizer\"", "\"objective\": { \"type\": \"iwae\", \"beta\": 1 }, \"optimizer\"",
     "x.json:10: objective.beta: ... only with type \"elbo\" ... \"iwae\""},
    {"3e-4", "1, \"momentum\": 0.9", "x.json:12: optimizer.momentum: ... only with type \"sgd\" ... \"adam\""},
    {"\"adam\"", "\"adagrad\", \"beta1\": 0.9",
     "x.json:11: optimizer.beta1: ... only with type \"adam\" ... \"adagrad\""},
    {"\"adam\"", "\"sgd\", \"epsilon\": 1e-8",
     "x.json:11: optimizer.epsilon: ... only with type \"adam\" or \"adagrad\" ... \"sgd\""},
};
INSTANTIATE_TEST_SUITE_P(Spec, BadField, testing::ValuesIn(bad_fields));

TEST(BadSpec, EveryMistakeIsToldAtOnceInTheOrderOfTheFile) {
  std::string text = replaced(smallest, "\"tiny\"", "7");
  text = replaced(text, "\"latent\": 2", "\"latent\": 0, \"latent\": 1");
  text = replaced(text, "\"adam\"", "\"adm\", \"momentum\": 2");
  text = replaced(text, "\"batch_size\"", "\"batchsize\"");
  EXPECT_TRUE(tells(error_of(text, {"train.epocs=3"}),
                    "x.json:2: name: ... 64 letters, digits, '.', '_' and '-' ... 7\n"
                    "x.json:5: model.latent: ... 1 to 4096 ... 0\n"
                    "x.json:5: model.latent: ... twice ... line 5\n"
                    "x.json:11: optimizer.type: ... \"adam\", \"adagrad\" or \"sgd\" ... \"adm\" ... \"adam\"?\n"
                    "x.json:11: optimizer.momentum: ... 0 to below 1 ... 2\n"
                    "x.json:14: train.batch_size: ... missing ... 1 to 65536\n"
                    "x.json:16: train.batchsize: ... unknown ... \"batch_size\"?\n"
                    "--set train.epocs=3: train.epocs: ... unknown ... \"epochs\"?"));
}

TEST(BadSpec, CountlessMistakesAreCutShort) {
  std::string text = "{";
  for (int i = 0; i < 20000; ++i) text += "\"x" + std::to_string(i) + "\": 0,\n";
  const std::string error = error_of(text + "\"a\": 0}");
  EXPECT_EQ(std::ranges::count(error, '\n'), 100);
  EXPECT_TRUE(error.ends_with(" more mistakes")) << error;
}

// ---- Overrides ----------------------------------------------------------------------------------------------

TEST(Override, ReplacesFieldsOfEveryKind) {
  const Spec s = parse_spec(
      smallest, "x.json",
      {"train.epochs=5", "name=2d-run", "data.dataset=\"fashion-mnist\"", "objective.beta=4",
       "model.encoder.0.units=16", "model.decoder=[]", "optimizer.type=sgd", "optimizer.learning_rate=1e-2",
       "optimizer.momentum=0.5", "train.epochs=6", "model.initialization={\"type\": \"normal\", \"std\": 0.5}"});
  EXPECT_EQ(s.train.epochs, 6);
  EXPECT_EQ(s.name, "2d-run");
  EXPECT_EQ(s.data.dataset, "fashion-mnist");
  EXPECT_EQ(s.objective.beta, 4.0);
  EXPECT_EQ(s.model.encoder.at(0).units, 16);
  EXPECT_TRUE(s.model.decoder.empty());
  EXPECT_EQ(s.optimizer.type, OptimizerType::sgd);
  EXPECT_EQ(s.optimizer.learning_rate, 1e-2f);
  EXPECT_EQ(s.optimizer.momentum, 0.5f);
  EXPECT_EQ(s.model.initialization_std, 0.5);
}

class BadOverride : public TestWithParam<Case> {};

TEST_P(BadOverride, IsNamed) { EXPECT_TRUE(tells(error_of(smallest, {GetParam().text}), GetParam().error)); }

const Case bad_overrides[] = {
    {"train.epochs", "--set train.epochs: ... path=value"},
    {"=5", "--set =5: ... path=value"},
    {"train.epocs=5", "--set train.epocs=5: train.epocs: ... unknown ... \"epochs\"?"},
    {"trian.epochs=5", "--set trian.epochs=5: trian: ... unknown ... \"train\"?"},
    {"train.epochs=many", "--set train.epochs=many: train.epochs: ... 1 to 1000000 ... \"many\""},
    {"train.epochs=", "--set train.epochs=: train.epochs: ... 1 to 1000000 ... \"\""},
    {"train.epochs=0", "--set train.epochs=0: train.epochs: ... 1 to 1000000 ... 0"},
    {"train.epochs=[5", "--set train.epochs=[5: value:1:3: ... ',' or ']' ... ends"},
    {"optimizer.learning_rate=NaN",
     "--set optimizer.learning_rate=NaN: optimizer.learning_rate: ... above 0 ... 1e30 ... \"NaN\""},
    {"optimizer.learning_rate=1e999", "--set optimizer.learning_rate=1e999: value:1:1: ... 1e999 ... range"},
    {"model.encoder.1.units=5", "--set model.encoder.1.units=5: model.encoder ... list of 1 ... \"1\""},
    {"model.encoder.x=5", "--set model.encoder.x=5: model.encoder ... list of 1 ... \"x\""},
    {"train.epochs.x=5", "--set train.epochs.x=5: train.epochs ... 1 ... no field \"x\""},
    {"optimizer={\"type\":\"adam\"}",
     "--set optimizer={\"type\":\"adam\"}: optimizer.learning_rate: ... missing ... above 0 ... 1e30"},
    {"optimizer.type=sgd", "accepted"},
};
INSTANTIATE_TEST_SUITE_P(Spec, BadOverride, testing::ValuesIn(bad_overrides));

// ---- The tree -----------------------------------------------------------------------------------------------

TEST(JsonTree, KnowsWhereEachValueStands) {
  const Json json = parse_json("{\n  \"a\": [ -0, \"é\\\"\", 18446744073709551616 ],\n  \"b\":{ \"c\" :true}\n}", "x");
  const auto place = [](const Json* j) { return std::pair(j->place.line, j->place.column); };
  const auto& list = *json.find("a")->as<Json::Array>();
  EXPECT_EQ(place(json.find("a")), std::pair(2, 8));
  EXPECT_EQ(place(&list[0]), std::pair(2, 10));
  EXPECT_EQ(place(&list[1]), std::pair(2, 14));
  EXPECT_EQ(place(&list[2]), std::pair(2, 21));
  EXPECT_EQ(place(json.find("b")), std::pair(3, 7));
  EXPECT_EQ(place(json.find("b")->find("c")), std::pair(3, 14));
  EXPECT_EQ(*list[1].as<std::string>(), "é\"");
  EXPECT_EQ(*list[2].as<double>(), 18446744073709551616.0);
}

TEST(JsonTree, QuotesLongAndStrangeTextForMessages) {
  EXPECT_EQ(in_quotes("a\"\n"), "\"a\\\"\\n\"");
  const std::string e = "\xC3\xA9";  // two bytes: the 60 that are shown must not end within
  std::string text = "a";
  for (int i = 0; i < 40; ++i) text += e;
  EXPECT_EQ(in_quotes(text), "\"" + text.substr(0, 59) + "...\"");
}

}  // namespace
}  // namespace elbo

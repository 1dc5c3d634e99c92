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
#include <string>
#include <vector>

#include "elbo/error.h"
#include "host/base/json.h"

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

// ---- JSON that does not parse -----------------------------------------------------------------------------

struct Case {
  std::string text, error;
};

class BadJson : public TestWithParam<Case> {};

TEST_P(BadJson, IsNamedWithLineAndColumn) { EXPECT_EQ(error_of(GetParam().text), GetParam().error); }

const Case bad_json[] = {
    {"", "x.json:1:1: empty; expected a JSON object in { }"},
    {" \n\t ", "x.json:2:3: empty; expected a JSON object in { }"},
    {"{\n  \"name\": \"a\"", "x.json:2:14: expected ',' or '}', but the text ends here"},
    {"{\n  \"name\" 5 }", "x.json:2:10: expected ':' after the field name, found 5"},
    {"{\n  \"seed\": 1\n  \"name\": 2 }", "x.json:3:3: expected ',' or '}', found text in double quotes"},
    {"{ \"seed\": 1, }", "x.json:1:14: expected a field name in double quotes after the comma, found '}'"},
    {"{ \"ä\": [ 1 2 ] }", "x.json:1:12: expected ',' or ']', found 2"},
    {"{ \"seed\": [1, ] }", "x.json:1:15: expected a value, found ']'"},
    {"{ seed: 1 }", "x.json:1:3: expected a field name in double quotes or '}', found seed; text takes double quotes"},
    {"{ 'seed': 1 }", "x.json:1:3: expected a field name in double quotes or '}', found '''; JSON takes double quotes"},
    {"{ \"seed\": NaN }", "x.json:1:11: expected a value, found NaN; JSON has no NaN and no infinity"},
    {"{ \"seed\": -Infinity }", "x.json:1:11: expected a value, found -Infinity; JSON has no NaN and no infinity"},
    {"{ \"seed\": 1e999 }", "x.json:1:11: the number 1e999 is out of range"},
    {"{ \"seed\": -1e999 }", "x.json:1:11: the number -1e999 is out of range"},
    {"{ \"seed\": 01 }", "x.json:1:12: expected ',' or '}', found 1"},
    {"{ \"seed\": .5 }", "x.json:1:11: expected a value, found .5; JSON writes numbers like 0.5, -2 or 3e-4"},
    {"{ \"seed\": 0x10 }", "x.json:1:12: expected ',' or '}', found x10"},
    {"{ \"seed\": True }", "x.json:1:11: expected a value, found True; JSON writes true and false in small letters"},
    {"{ // seed\n}", "x.json:1:3: expected a field name in double quotes or '}', found '/'; JSON has no comments"},
    {"{} {}", "x.json:1:4: expected the end of the text, found '{'"},
    {"{}\n#", "x.json:2:1: expected the end of the text, found '#'; JSON has no comments"},
    {std::string("{}\0{}", 5), "x.json:1:3: found a zero byte; this is no text file"},
    {"{ \"seed\": \"a\n\" }", "x.json:1:11: the text that begins here has no closing '\"' on its line"},
    {"{ \"seed\": \"a\tb\" }", "x.json:1:13: found a control character (byte 9) inside double quotes"},
    {"{ \"seed\": \"\\q\" }", "x.json:1:13: found an escape that JSON does not have; a '\\' itself is written '\\\\'"},
    {"{ \"seed\": \"\xC3(\" }", "x.json:1:13: found bytes that are not UTF-8"},
    {"{ \"seed\": \xFF }", "x.json:1:11: expected a value, found byte 255"},
    {"\x1F\x8B", "x.json:1:1: expected a JSON value, found byte 31"},
    {"5", "x.json:1: expected an object, found 5"},
    {"[]", "x.json:1: expected an object, found a list"},
};
INSTANTIATE_TEST_SUITE_P(Spec, BadJson, testing::ValuesIn(bad_json));

TEST(BadJsonFiles, DeepNestingIsRefusedAtOnce) {
  const auto start = std::chrono::steady_clock::now();
  const std::string deep(200000, '['), objects = [] {
    std::string text;
    for (int i = 0; i < 200000; ++i) text += "{\"a\":";
    return text;
  }();
  EXPECT_EQ(error_of(deep), "x.json:1:65: nested deeper than 64 levels");
  EXPECT_EQ(error_of(objects), "x.json:1:321: nested deeper than 64 levels");
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
  EXPECT_EQ(error("experiments"), "experiments: is a folder");

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
  EXPECT_EQ(error_of(replaced(smallest, GetParam().from, GetParam().to)), GetParam().error);
}

const Edit bad_fields[] = {
    // unknown
    {"\"epochs\"", "\"epocs\": 2, \"epochs\"", "x.json:15: train.epocs: unknown field; did you mean \"epochs\"?"},
    {"\"name\"", "\"train_\": 2, \"name\"", "x.json:2: train_: unknown field; did you mean \"train\"?"},
    {"\"name\"", "\"epochs\": 2, \"name\"", "x.json:2: epochs: unknown field; did you mean \"train.epochs\"?"},
    {"\"name\"", "\"train.epochs\": 2, \"name\"",
     "x.json:2: train.epochs: unknown field; known here: \"name\", \"seed\", \"data\", \"model\", \"objective\", "
     "\"optimizer\" or \"train\""},
    {"\"name\"", "\"a\\nb\": 2, \"name\"",
     "x.json:2: \"a\\nb\": unknown field; known here: \"name\", \"seed\", \"data\", \"model\", \"objective\", "
     "\"optimizer\" or \"train\""},
    {"\"units\": 8", "\"units\": 8, \"unit\": 8",
     "x.json:6: model.encoder.0.unit: unknown field; did you mean \"units\"?"},
    // given twice
    {"\"epochs\": 1", "\"epochs\": 1,\n\"epochs\": 2", "x.json:16: train.epochs: given twice; first on line 15"},
    {"\"units\": 8", "\"units\": 8, \"units\": 9", "x.json:6: model.encoder.0.units: given twice; first on line 6"},
    {"\"train\": {", "\"train\": {}, \"train\": {",
     "x.json:14: train.epochs: missing; expected an integer from 1 to 1000000\n"
     "x.json:14: train.batch_size: missing; expected an integer from 1 to 65536\n"
     "x.json:14: train: given twice; first on line 14"},
    // missing
    {"\"epochs\": 1,", "", "x.json:14: train.epochs: missing; expected an integer from 1 to 1000000"},
    {"\"data\": { \"dataset\": \"mnist\" },", "",
     "x.json:1: data.dataset: missing; expected a name of at most 64 letters, digits, '.', '_' and '-' that begins "
     "with a letter or digit"},
    {"\"units\": 8", "\"activation\": \"relu\"",
     "x.json:6: model.encoder.0.units: missing; expected an integer from 1 to 65536"},
    // mistyped
    {"\"epochs\": 1", "\"epochs\": \"1\"",
     "x.json:15: train.epochs: expected an integer from 1 to 1000000, found \"1\""},
    {"\"epochs\": 1", "\"epochs\": 1.5", "x.json:15: train.epochs: expected an integer from 1 to 1000000, found 1.5"},
    {"\"epochs\": 1", "\"epochs\": null", "x.json:15: train.epochs: expected an integer from 1 to 1000000, found null"},
    {"\"epochs\": 1", "\"epochs\": [1]",
     "x.json:15: train.epochs: expected an integer from 1 to 1000000, found a list"},
    {"3e-4", "true", "x.json:12: optimizer.learning_rate: expected a number above 0 and at most 1e30, found true"},
    {"{ \"dataset\": \"mnist\" }", "\"mnist\"", "x.json:3: data: expected an object, found \"mnist\""},
    {"[ { \"type\": \"dense\", \"units\": 8 } ]", "8",
     "x.json:6: model.encoder: expected a list of at most 64 layers, found 8"},
    {"{ \"type\": \"dense\", \"units\": 8 }", "8", "x.json:6: model.encoder.0: expected an object, found 8"},
    {"\"likelihood\": \"bernoulli\"", "\"likelihood\": 1",
     "x.json:8: model.likelihood: expected \"bernoulli\" or \"gaussian\", found 1"},
    {"\"name\"", "\"$schema\": 5, \"name\"", "x.json:2: $schema: expected text, found 5"},
    // out of range
    {"\"epochs\": 1", "\"epochs\": 0", "x.json:15: train.epochs: expected an integer from 1 to 1000000, found 0"},
    {"\"epochs\": 1", "\"epochs\": 1000001",
     "x.json:15: train.epochs: expected an integer from 1 to 1000000, found 1000001"},
    {"\"epochs\": 1", "\"epochs\": 1e300",
     "x.json:15: train.epochs: expected an integer from 1 to 1000000, found 1e300"},
    {"\"batch_size\": 4", "\"batch_size\": 65537",
     "x.json:16: train.batch_size: expected an integer from 1 to 65536, found 65537"},
    {"\"latent\": 2", "\"latent\": 4097", "x.json:5: model.latent: expected an integer from 1 to 4096, found 4097"},
    {"\"units\": 8", "\"units\": 65537",
     "x.json:6: model.encoder.0.units: expected an integer from 1 to 65536, found 65537"},
    {"\"name\"", "\"seed\": 9007199254740992, \"name\"",
     "x.json:2: seed: expected an integer from 0 to 9007199254740991, found 9007199254740992"},
    {"\"name\"", "\"seed\": -1, \"name\"", "x.json:2: seed: expected an integer from 0 to 9007199254740991, found -1"},
    {"3e-4", "0", "x.json:12: optimizer.learning_rate: expected a number above 0 and at most 1e30, found 0"},
    {"3e-4", "-3e-4", "x.json:12: optimizer.learning_rate: expected a number above 0 and at most 1e30, found -3e-4"},
    {"3e-4", "1e-60",
     "x.json:12: optimizer.learning_rate: expected a number above 0 and at most 1e30, found 1e-60, which is 0 as a "
     "float"},
    {"3e-4", "1e39", "x.json:12: optimizer.learning_rate: expected a number above 0 and at most 1e30, found 1e39"},
    {"3e-4", "1, \"beta1\": 1", "x.json:12: optimizer.beta1: expected a number from 0 to below 1, found 1"},
    {"3e-4", "1, \"beta2\": 1.5", "x.json:12: optimizer.beta2: expected a number from 0 to below 1, found 1.5"},
    {"\"bernoulli\"", "\"gaussian\", \"variance\": 0",
     "x.json:8: model.variance: expected a number from 1e-30 to 1e30, found 0"},
    {"\"tiny\"", "\"../tiny\"",
     "x.json:2: name: expected a name of at most 64 letters, digits, '.', '_' and '-' that begins with a letter or "
     "digit, found \"../tiny\""},
    {"\"mnist\"", "\"\"",
     "x.json:3: data.dataset: expected a name of at most 64 letters, digits, '.', '_' and '-' that begins with a "
     "letter or digit, found \"\""},
    // misspelt words
    {"\"bernoulli\"", "\"bernouli\"",
     "x.json:8: model.likelihood: expected \"bernoulli\" or \"gaussian\", found \"bernouli\"; did you mean "
     "\"bernoulli\"?"},
    {"\"adam\"", "\"sdg\"",
     "x.json:11: optimizer.type: expected \"adam\", \"adagrad\" or \"sgd\", found \"sdg\"; did you mean \"sgd\"?"},
    {"\"adam\"", "\"lbfgs\"", "x.json:11: optimizer.type: expected \"adam\", \"adagrad\" or \"sgd\", found \"lbfgs\""},
    // not there yet
    {"\"type\": \"dense\", \"units\": 8", "\"type\": \"conv\", \"kernel\": 3",
     "x.json:6: model.encoder.0.type: \"conv\" is not supported yet; supported: \"dense\""},
    {"\"type\": \"dense\", \"units\": 8", "\"type\": \"dens\", \"units\": 8",
     "x.json:6: model.encoder.0.type: expected \"dense\", found \"dens\"; did you mean \"dense\"?"},
    // rules between fields
    {"\"bernoulli\"", "\"bernoulli\", \"variance\": 2",
     "x.json:8: model.variance: only with likelihood \"gaussian\"; here it is \"bernoulli\""},
    {"\"latent\": 2", "\"latent\": 2, \"initialization\": { \"type\": \"glorot\", \"std\": 1 }",
     "x.json:5: model.initialization.std: only with type \"normal\"; here it is \"glorot\""},
    {"\"latent\": 2", "\"latent\": 2, \"initialization\": { \"std\": 1 }",
     "x.json:5: model.initialization.std: only with type \"normal\"; here it is \"pytorch\""},
    {"3e-4", "1, \"momentum\": 0.9", "x.json:12: optimizer.momentum: only with type \"sgd\"; here it is \"adam\""},
    {"\"adam\"", "\"adagrad\", \"beta1\": 0.9",
     "x.json:11: optimizer.beta1: only with type \"adam\"; here it is \"adagrad\""},
    {"\"adam\"", "\"sgd\", \"epsilon\": 1e-8",
     "x.json:11: optimizer.epsilon: only with type \"adam\" or \"adagrad\"; here it is \"sgd\""},
};
INSTANTIATE_TEST_SUITE_P(Spec, BadField, testing::ValuesIn(bad_fields));

TEST(BadSpec, EveryMistakeIsToldAtOnceInTheOrderOfTheFile) {
  std::string text = replaced(smallest, "\"tiny\"", "7");
  text = replaced(text, "\"latent\": 2", "\"latent\": 0, \"latent\": 1");
  text = replaced(text, "\"adam\"", "\"adm\", \"momentum\": 2");
  text = replaced(text, "\"batch_size\"", "\"batchsize\"");
  EXPECT_EQ(
      error_of(text, {"train.epocs=3"}),
      "x.json:2: name: expected a name of at most 64 letters, digits, '.', '_' and '-' that begins with a letter "
      "or digit, found 7\n"
      "x.json:5: model.latent: expected an integer from 1 to 4096, found 0\n"
      "x.json:5: model.latent: given twice; first on line 5\n"
      "x.json:11: optimizer.type: expected \"adam\", \"adagrad\" or \"sgd\", found \"adm\"; did you mean \"adam\"?\n"
      "x.json:11: optimizer.momentum: expected a number from 0 to below 1, found 2\n"
      "x.json:14: train.batch_size: missing; expected an integer from 1 to 65536\n"
      "x.json:16: train.batchsize: unknown field; did you mean \"batch_size\"?\n"
      "--set train.epocs=3: train.epocs: unknown field; did you mean \"epochs\"?");
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

TEST_P(BadOverride, IsNamed) { EXPECT_EQ(error_of(smallest, {GetParam().text}), GetParam().error); }

const Case bad_overrides[] = {
    {"train.epochs", "--set train.epochs: expected path=value, like train.epochs=5"},
    {"=5", "--set =5: expected path=value, like train.epochs=5"},
    {"train.epocs=5", "--set train.epocs=5: train.epocs: unknown field; did you mean \"epochs\"?"},
    {"trian.epochs=5", "--set trian.epochs=5: trian: unknown field; did you mean \"train\"?"},
    {"train.epochs=many",
     "--set train.epochs=many: train.epochs: expected an integer from 1 to 1000000, found \"many\""},
    {"train.epochs=", "--set train.epochs=: train.epochs: expected an integer from 1 to 1000000, found \"\""},
    {"train.epochs=0", "--set train.epochs=0: train.epochs: expected an integer from 1 to 1000000, found 0"},
    {"train.epochs=[5", "--set train.epochs=[5: value:1:3: expected ',' or ']', but the text ends here"},
    {"optimizer.learning_rate=NaN",
     "--set optimizer.learning_rate=NaN: optimizer.learning_rate: expected a number above 0 and at most 1e30, found "
     "\"NaN\""},
    {"optimizer.learning_rate=1e999",
     "--set optimizer.learning_rate=1e999: value:1:1: the number 1e999 is out of range"},
    {"model.encoder.1.units=5",
     "--set model.encoder.1.units=5: model.encoder is a list of 1; expected a number below that in place of \"1\""},
    {"model.encoder.x=5",
     "--set model.encoder.x=5: model.encoder is a list of 1; expected a number below that in place of \"x\""},
    {"train.epochs.x=5", "--set train.epochs.x=5: train.epochs is 1 and has no field \"x\""},
    {"optimizer={\"type\":\"adam\"}",
     "--set optimizer={\"type\":\"adam\"}: optimizer.learning_rate: missing; expected a number above 0 and at most "
     "1e30"},
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

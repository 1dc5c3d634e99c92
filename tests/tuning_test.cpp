// Tuning files, and what a tuned device does: on the simulated one, over the stand-in for cuBLASLt.
#include "host/base/tuning_file.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "host/base/devices.h"
#include "host/train/checkpoint.h"
#include "host/train/trainer.h"
#include "tests/errors.h"
#include "tests/synthetic.h"

namespace elbo {
namespace {

using test::error_of;
using test::expect_words;
using test::small_spec;

class Behaviour {
 public:
  explicit Behaviour(const char* how) { setenv("ELBO_SIM_CUBLASLT", how, 1); }
  ~Behaviour() { unsetenv("ELBO_SIM_CUBLASLT"); }
};

const ImageSet& images() {
  static const ImageSet set = test::discs(110, 9, 8);
  return set;
}

// Widths that algorithm 66 takes, so that a tuned step has other bits.
Spec spec() {
  return small_spec({R"(model.encoder=[{"type":"dense","units":36,"activation":"relu"}])",
                     R"(model.decoder=[{"type":"dense","units":28,"activation":"relu"}])"});
}

struct Job {
  explicit Job(const Tuning* tuning = nullptr, const BackendOptions& options = {})
      : device(open_device("sim", options)) {
    if (tuning) device.backend->use(*tuning);
    trainer = std::make_unique<Trainer>(*device.backend, spec(), images());
  }
  std::string run(std::uint32_t steps) {
    trainer->run_until(steps);
    trainer->check();
    return hash_weights(trainer->vae);
  }
  OpenedDevice device;
  std::unique_ptr<Trainer> trainer;
};

// Of the step above, with algorithm 66 wherever it can be.
const Tuning& tuning() {
  static const Tuning made = [] {
    const Behaviour slow("slow");
    Job job;
    job.run(1);
    Tuning t = job.device.backend->tune(0, nullptr);
    t.where = "made.json";
    return t;
  }();
  return made;
}

TEST(Tuning, ATunedStepIsRepeatedAndResumedToTheBit) {
  EXPECT_GT(std::ranges::count(tuning().products, 66, [](const auto& p) { return p.choice.algorithm.id; }), 3);
  Job plain, tuned(&tuning()), again(&tuning());
  const std::string bits = tuned.run(13);
  EXPECT_NE(bits, plain.run(13)) << "the algorithms sum in other orders";
  EXPECT_EQ(bits, again.run(13));

  Job first(&tuning());
  first.run(6);
  const Tuning read = parse_tuning(to_json(tuning()), "t.json");
  Job second(&read);
  const TensorFile file = [&] {
    Progress now;
    now.step = 6;
    return make_checkpoint(*first.trainer, spec(), now);
  }();
  restore(*second.trainer, file, "first");
  EXPECT_EQ(bits, second.run(13));
  for (const ProductChoice& c : second.device.backend->products()) EXPECT_TRUE(c.tuned) << description_of(c.product);
}

TEST(Tuning, NodesOfAStepSayWhatTheLibraryDoes) {
  EXPECT_EQ(Job().trainer->graph_nodes(), 16u);
  EXPECT_EQ(Job(&tuning()).trainer->graph_nodes(), 16u);
  {
    const Behaviour split("split");
    EXPECT_EQ(Job().trainer->graph_nodes(), 16u + 11) << "one more for each product";
    EXPECT_EQ(Job(&tuning()).trainer->graph_nodes(), 16u) << "none of those chosen is split";
  }
  const std::size_t most = Job(nullptr, {.epilogues = false}).trainer->graph_nodes();
  const Behaviour nothing("nothing");
  EXPECT_EQ(Job().trainer->graph_nodes(), most);
}

TEST(Tuning, AFileComesBackAsItWas) {
  const std::string text = to_json(tuning());
  const Tuning read = parse_tuning(text, "t.json");
  EXPECT_EQ(read.where, "t.json");
  EXPECT_EQ(to_json(read), text);
  ASSERT_EQ(read.products.size(), tuning().products.size());
  for (std::size_t i = 0; i < read.products.size(); ++i) {
    EXPECT_EQ(read.products[i].choice.product, tuning().products[i].choice.product);
    EXPECT_EQ(read.products[i].choice.algorithm, tuning().products[i].choice.algorithm);
    EXPECT_EQ(read.products[i].microseconds, tuning().products[i].microseconds);
  }
}

// `text` with its first `from` changed.
std::string changed(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  if (at == std::string::npos) ADD_FAILURE() << from << " is not in the file";
  return at == std::string::npos ? text : text.replace(at, from.size(), to);
}

TEST(Tuning, ADamagedFileSaysWhereAndWhy) {
  const std::string text = to_json(tuning());
  const auto says = [&](const std::string& from, const std::string& to, const std::vector<std::string>& words) {
    expect_words(error_of([&] { parse_tuning(changed(text, from, to), "t.json"); }), words);
  };
  says("\"format\": 1", "\"format\": 2", {"t.json:2:", "format: is 2; this elbo reads 1"});
  says("\"gpu\"", "\"gpus\"", {"t.json:1:1: gpu: is missing"});
  says("\"gpu\":", "\"more\": 1, \"gpu\":", {"t.json:3:3: more: a tuning file has no such field"});
  says("\"gpu\": ", "\"gpu\": 3, \"x\": ", {"gpu: expected a text, found 3"});
  says("\"precision\": \"fp32\"", "\"precision\": \"fp64\"", {"precision: expected one of fp32, tf32, found \"fp64\""});
  says("\"products\": [", "\"products\": [ 7,", {"products.0: expected an object, found 7"});
  says("\"m\": ", "\"m\": -", {"products.0.m: expected an integer from 1"});
  says("\"k\": ", "\"k\": 0.", {"products.0.k: expected an integer from 1"});
  says("\"n\": ", "\"n\": 1", {"products.0.product: is [", "by the fields below it"});
  says("\"transpose_a\": ", "\"transpose_a\": 1, \"x\": ", {"products.0.transpose_a: expected true or false, found 1"});
  says("\"epilogue\": \"", "\"epilogue\": \"x", {"products.0.epilogue: expected one of default, bias, "});
  says("        16,", "        3,", {"products.0.alignment: expected five of 1, 2, 4, 8 and 16"});
  says("        16,\n", "", {"products.0.alignment: expected five of 1, 2, 4, 8 and 16"});
  says("\"tile\": ", "\"tile\": \"a\", \"x\": ", {"products.0.algorithm.tile: expected an integer from 0"});
  says("\"data\": \"", "\"data\": \"0", {"products.0.algorithm.data: expected 128 digits from 0 to f"});
  says("\"data\": \"0", "\"data\": \"G", {"products.0.algorithm.data: expected 128 digits from 0 to f"});
  says("\"waves\": ", "\"waves\": -1, \"x\": ", {"products.0.waves: expected a number from 0, found -1"});
  says("\"candidates\": ", "\"more\": 0, \"candidates\": ", {"products.0.more: a tuning file has no such field"});
  // What only the checksum sees: another digit of the algorithm's own data, of a number, of a name.
  says("\"data\": \"0", "\"data\": \"1", {"t.json: was changed since it was made"});
  says("\"stages\": 2", "\"stages\": 1", {"t.json: was changed since it was made"});
  says("\"gpu\": \"s", "\"gpu\": \"S", {"t.json: was changed since it was made"});
  const std::size_t last = text.find("\n  \"sha256\"");
  EXPECT_NE(last, std::string::npos);
  for (std::size_t cut = 0; cut < text.size() - 2; cut += 97)
    expect_words(error_of([&] { parse_tuning(text.substr(0, cut), "t.json"); }), {"t.json:"});
  Tuning twice = tuning();
  twice.products.push_back(twice.products[1]);
  expect_words(error_of([&] { parse_tuning(to_json(twice), "t.json"); }), {"the same product is there before"});
}

TEST(Tuning, AnotherMachinesChoicesAreRefused) {
  const OpenedDevice device = open_device("sim");
  const auto refused = [&](const std::function<void(Tuning&)>& change, const std::vector<std::string>& words) {
    Tuning t = tuning();
    change(t);
    expect_words(error_of([&] { device.backend->use(t); }), words);
  };
  refused([](Tuning& t) { t.gpu = "NVIDIA H200"; },
          {"made.json: was tuned for the GPU NVIDIA H200; this is simulated GPU", "elbo tune"});
  refused([](Tuning& t) { t.library = "cuBLASLt 12.0.0"; },
          {"made.json: was tuned for the library cuBLASLt 12.0.0; this is cuBLASLt 13."});
  refused([](Tuning& t) { t.precision = Precision::tf32; },
          {"made.json: was tuned for the precision tf32; this is fp32"});
  refused(
      [](Tuning& t) {
        const auto found = std::ranges::find(t.products, 66, [](const auto& p) { return p.choice.algorithm.id; });
        found->choice.product.k = found->choice.product.m = found->choice.product.n = 7;
      },
      {"made.json: [7, 7]", "does not take algorithm 66"});
  expect_words(error_of([&] { open_device("cpu").backend->use(tuning()); }), {"made.json: the cpu device"});
  expect_words(error_of([&] { open_device("cpu").backend->tune(0, nullptr); }), {"cpu", "only a cuda device"});
  expect_words(error_of([&] { open_device("sim", {.tuning = "/nowhere/t.json"}); }), {"/nowhere/t.json"});
}

}  // namespace
}  // namespace elbo

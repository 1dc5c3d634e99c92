// Training as a whole, on every device: what must be equal is equal to the last bit.
#include "host/train/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>

#include "elbo/math/activation.h"
#include "elbo/math/latent.h"
#include "elbo/math/likelihood.h"
#include "elbo/math/random.h"
#include "host/base/devices.h"
#include "host/train/checkpoint.h"
#include "host/train/evaluate.h"
#include "host/train/memory_needs.h"
#include "tests/errors.h"
#include "tests/setting.h"
#include "tests/synthetic.h"

namespace elbo {
namespace {

using test::discs;
using test::small_spec;

const ImageSet& images() {
  static const ImageSet set = discs(110, 9, 7);  // 5 batches of 20; 10 images wait for the next epoch
  return set;
}

std::vector<float> all_weights(const Vae& vae) {
  std::vector<float> weights(static_cast<std::size_t>(vae.parameters.count()));
  vae.device().download(weights.data(), vae.parameters.memory());
  return weights;
}

// Why a device cannot be tested; empty where it can. A test fails where it must be.
std::string absence(const std::string& device) {
  try {
    open_device(device);
    return "";
  } catch (const Error& e) {
    if (device == "cpu" || (device == "sim" && std::getenv("ELBO_REQUIRE_SIM"))) ADD_FAILURE() << e.what();
    return e.what();
  }
}

struct Job {
  Job(const char* device, const Spec& spec, BackendOptions options = {})
      : opened(open_device(device, options)), trainer(*opened.backend, spec, images()) {}
  std::string run(std::uint32_t steps) {
    trainer.run_until(steps);
    trainer.check();
    return hash_weights(trainer.vae);
  }
  OpenedDevice opened;
  Trainer trainer;
};

// ---- A step, to the last bit ------------------------------------------------------------------------------------

// On a device; on the simulated one, in an order of its threads and blocks.
struct Way {
  const char *name, *device, *order = "", *blocks = "";
};

class Step : public testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    const std::string why = absence(GetParam().device);
    if (!why.empty()) GTEST_SKIP() << why;
  }

  // What a step moves.
  static std::vector<std::uint8_t> bytes_of(const Job& job) {
    std::vector<std::uint8_t> all;
    const Optimizer& optimizer = job.trainer.optimizer;
    for (const Tensor& t : {job.trainer.vae.parameters.memory(), optimizer.first_moment(), optimizer.second_moment(),
                            job.trainer.sums()}) {
      std::vector<std::uint8_t> bytes(t.bytes());
      job.opened.backend->download(bytes.data(), t);
      all.insert(all.end(), bytes.begin(), bytes.end());
    }
    return all;
  }
};

// Recorded, called, and once more; with the simulated device's threads in any order as forward. Steps of more than one
// epoch, with dynamic binarisation, a relu and two samples: all that a recording might have baked in.
TEST_P(Step, TwoRunsGiveTheSameBits) {
  const auto [name, device, order, blocks] = GetParam();
  const Spec spec = small_spec({"data.binarize=dynamic", "objective.samples=2"});
  constexpr std::uint32_t steps = 7;
  std::vector<std::vector<std::uint8_t>> first;  // of each step
  {
    Job job(device, spec);
    std::vector<float> weights = all_weights(job.trainer.vae);
    for (std::uint32_t step = 1; step <= steps; ++step) {
      job.run(step);
      first.push_back(bytes_of(job));
      const std::vector<float> before = std::exchange(weights, all_weights(job.trainer.vae));
      EXPECT_TRUE(weights != before) << "step " << step << " moves nothing";
    }
  }
  const test::Setting threads("ELBO_SIM_ORDER", order), order_of_blocks("ELBO_SIM_BLOCKS", blocks);
  for (const bool record : {true, false}) {
    Job job(device, spec, {.record = record});
    for (std::uint32_t step = 1; step <= steps; ++step) {
      job.run(step);
      EXPECT_TRUE(bytes_of(job) == first[step - 1]) << "step " << step << (record ? ", recorded" : ", called");
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Devices, Step,
                         testing::Values(Way{"cpu", "cpu"}, Way{"cuda", "cuda"}, Way{"sim", "sim"},
                                         Way{"sim_reverse", "sim", "reverse"}, Way{"sim_random", "sim", "random:1"},
                                         Way{"sim_apart", "sim", "random:2", "apart"}),
                         [](const auto& way) { return std::string(way.param.name); });

// A matrix product is oneDNN's and may; the sizes here are too small for it to cut the inner dimension.
TEST(Cpu, AStepDoesNotDependOnTheNumberOfThreads) {
  const Spec spec = small_spec({"data.binarize=dynamic", "objective.samples=2"});
  const std::string one = Job("cpu", spec, {.threads = 1}).run(7);
  for (const int threads : {2, 3, 5}) EXPECT_EQ(Job("cpu", spec, {.threads = threads}).run(7), one) << threads;
}

// ---- Training ---------------------------------------------------------------------------------------------------

class Training : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string why = absence(GetParam());
    if (!why.empty()) GTEST_SKIP() << why;
  }
};

// As nn.Sequential counts its modules: an activation is one, no activation is none.
TEST_P(Training, ParametersHavePyTorchsNames) {
  const Job job(GetParam(), small_spec({R"(model.encoder=[{"type":"dense","units":5,"activation":"relu"},)"
                                        R"({"type":"dense","units":6,"activation":"identity"},)"
                                        R"({"type":"dense","units":7,"activation":"tanh"}])"}));
  std::vector<std::string> names;
  for (const Parameter& p : job.trainer.vae.parameters.layout())
    if (p.name.ends_with(".weight")) names.push_back(p.name.substr(0, p.name.rfind('.')));
  EXPECT_EQ(names,
            (std::vector<std::string>{"encoder.0", "encoder.2", "encoder.3", "encoder.5", "decoder.0", "decoder.2"}));
}

TEST_P(Training, TheSeedMatters) {
  Job a(GetParam(), small_spec()), b(GetParam(), small_spec({"seed=4"}));
  EXPECT_NE(hash_weights(a.trainer.vae), hash_weights(b.trainer.vae));
}

TEST_P(Training, StreamedImagesTrainLikeResidentOnes) {
  for (const char* binarize : {"data.binarize=none", "data.binarize=threshold", "data.binarize=dynamic"}) {
    Job resident(GetParam(), small_spec({binarize, "data.residency=device"}));
    Job streamed(GetParam(), small_spec({binarize, "data.residency=stream"}));
    EXPECT_EQ(resident.run(23), streamed.run(23)) << binarize;
  }
}

// A trainer does a step before the first, so that a GPU has loaded what it then records.
TEST_P(Training, AStepBeforeTheFirstMovesNothing) {
  for (const char* residency : {"data.residency=device", "data.residency=stream"}) {
    const Spec spec = small_spec({residency});
    Job job(GetParam(), spec);
    const OpenedDevice opened = open_device(GetParam());
    Vae fresh(*opened.backend, spec, images().image_shape());
    EXPECT_EQ(hash_weights(job.trainer.vae), hash_weights(fresh));
    for (const Tensor& t :
         {job.trainer.optimizer.first_moment(), job.trainer.optimizer.second_moment(), job.trainer.sums()}) {
      std::vector<std::uint8_t> bytes(static_cast<std::size_t>(t.bytes()));
      job.opened.backend->download(bytes.data(), t);
      EXPECT_EQ(bytes, std::vector<std::uint8_t>(bytes.size(), 0));
    }
    EXPECT_NO_THROW(job.trainer.check());
    EXPECT_EQ(job.trainer.step(), 0u);
  }
}

// What a step costs before it computes anything: launches that wait for each other, where there is a graph.
TEST_P(Training, AStepOfAPerceptronIsSixteenNodes) {
  const std::string device = GetParam(), w1 = R"(model.decoder=[{"type":"dense","units":29,"activation":"relu"}])";
  const auto nodes = [&](const std::vector<std::string>& overrides, const BackendOptions& options) {
    return Job(GetParam(), small_spec(overrides), options).trainer.graph_nodes();
  };
  for (const char* likelihood : {"model.likelihood=bernoulli", "model.likelihood=gaussian"}) {
    const std::size_t least = nodes({w1, likelihood}, {}), most = nodes({w1, likelihood}, {.epilogues = false});
    if (device == "cpu") {
      EXPECT_EQ(least, 0u);
    } else if (device == "sim") {
      EXPECT_EQ(least, 16u);
      EXPECT_EQ(most, 26u);
    } else {  // cuBLASLt may have split a product, or have no such epilogue: a figure for the GPU check, no error
      RecordProperty("nodes", static_cast<int>(least));
    }
  }
  EXPECT_EQ(nodes({w1, "data.residency=stream"}, {}), nodes({w1}, {}));
  EXPECT_EQ(nodes({w1}, {.record = false}), 0u);
}

TEST_P(Training, SeveralStepsAreOneLaunchWhereTheImagesAreOnTheDevice) {
  const std::int64_t several = std::string(GetParam()) == "cpu" ? 1 : 4;
  EXPECT_EQ(Job(GetParam(), small_spec({"data.residency=device"})).trainer.steps_at_once(), several);
  EXPECT_EQ(Job(GetParam(), small_spec({"data.residency=stream"})).trainer.steps_at_once(), 1);
  EXPECT_EQ(Job(GetParam(), small_spec(), {.record = false}).trainer.steps_at_once(), 1);
  // However they are cut, the steps are the same.
  Job at_once(GetParam(), small_spec()), one_by_one(GetParam(), small_spec());
  for (std::uint32_t step = 1; step < 23; ++step) one_by_one.trainer.run_until(step);
  EXPECT_EQ(at_once.run(23), one_by_one.run(23));
}

// Hidden layers, activations and epilogues: the same training, but for the rounding of a product.
TEST_P(Training, EpiloguesChangeNothing) {
  for (
      const char* layers :
      {R"(model.encoder=[{"type":"dense","units":21,"activation":"relu"},{"type":"dense","units":130,"activation":"relu"}])",
       R"(model.encoder=[{"type":"dense","units":21,"activation":"tanh"},{"type":"dense","units":8,"activation":"relu"}])"}) {
    Job with(GetParam(), small_spec({layers})), without(GetParam(), small_spec({layers}), {.epilogues = false});
    with.run(23);
    without.run(23);
    const std::vector<float> a = all_weights(with.trainer.vae), b = all_weights(without.trainer.vae);
    // Sums in another order; 23 steps of Adam, of at most 1e-3 each, make of it what they like where a gradient is
    // nearly 0. A GPU's products may differ in more than that, so there only the figures are compared.
    const std::string device = GetParam();
    EXPECT_NEAR(with.trainer.figures().elbo, without.trainer.figures().elbo,
                1e-4 * std::abs(without.trainer.figures().elbo));
    if (device == "cuda") continue;
    for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], device == "cpu" ? 0.0f : 1e-4f) << i;
  }
}

TEST_P(Training, AResumedRunEndsWithTheSameBits) {
  for (const char* change : {"optimizer.type=adam", "optimizer.type=adagrad", "optimizer.type=sgd",
                             "data.residency=stream", R"(objective={"type":"iwae","samples":2})"}) {
    const Spec spec = small_spec({change, "data.binarize=dynamic"});
    Job whole(GetParam(), spec);
    whole.trainer.run_until(23);
    whole.trainer.check();

    Job first(GetParam(), spec), second(GetParam(), spec);
    first.run(13);  // in the middle of the third epoch
    const TensorFile file = make_checkpoint(first.trainer, spec, {13, 1.5, -7.25, ""});
    const Progress progress = restore(second.trainer, file, "memory");
    EXPECT_EQ(progress.step, 13u);
    EXPECT_EQ(progress.best_bound, -7.25);
    EXPECT_EQ(hash_weights(whole.trainer.vae), second.run(23)) << change;
    EXPECT_EQ(whole.trainer.figures().elbo, second.trainer.figures().elbo) << "the epoch's sums go on, too";
  }
}

TEST_P(Training, ASnapshotIsTheMomentInWhichItWasTaken) {
  const Spec spec = small_spec({"data.binarize=dynamic"});
  Job whole(GetParam(), spec), job(GetParam(), spec), other(GetParam(), spec);
  Snapshot snapshot(job.trainer);
  job.trainer.run_until(6);
  snapshot.take({6, 1.0, -9.0, ""});
  job.trainer.run_until(13);
  snapshot.take({13, 1.5, -7.25, "those"});  // neither waits for the steps before, nor holds up those behind
  job.run(23);
  job.trainer.reset_figures();
  const Progress progress = restore(other.trainer, snapshot.read(spec), "memory");
  EXPECT_EQ(progress.step, 13u);
  EXPECT_EQ(progress.seconds, 1.5);
  EXPECT_EQ(progress.best_bound, -7.25);
  EXPECT_EQ(progress.images, "those");
  EXPECT_EQ(other.run(23), whole.run(23));
  EXPECT_EQ(other.run(23), hash_weights(job.trainer.vae)) << "taking it has changed nothing";
  EXPECT_EQ(other.trainer.figures().elbo, whole.trainer.figures().elbo) << "the epoch's sums go on, too";
}

TEST_P(Training, RivalKernelsAgree) {
  for (const char* likelihood : {"model.likelihood=bernoulli", "model.likelihood=gaussian"})
    for (const char* posterior : {"model.posterior=log_variance", "model.posterior=sigma"}) {
      Job fused(GetParam(), small_spec({likelihood, posterior, "objective.kernels=fused", "objective.samples=2"}));
      fused.run(10);
      for (const char* rival : {"fused_log", "two_pass", "unfused"}) {
        const std::string kernels = cat("objective.kernels=", rival);
        Job other(GetParam(), small_spec({likelihood, posterior, kernels, "objective.samples=2"}));
        other.run(10);
        const Figures a = fused.trainer.figures(), b = other.trainer.figures();
        // f32 sums in another order; ten Adam steps let the difference grow
        EXPECT_NEAR(a.reconstruction, b.reconstruction, 1e-5 * std::abs(b.reconstruction)) << likelihood << kernels;
        EXPECT_NEAR(a.kl, b.kl, 1e-4 * (1 + std::abs(b.kl))) << posterior << kernels;
      }
    }
}

// With the weights of one training: the expectation of the bound grows with the samples (theorem 1 of
// arXiv 1509.00519). Its first draws are the same ones.
TEST_P(Training, TheImportanceWeightedBoundGrowsWithItsSamples) {
  Job job(GetParam(), small_spec({"objective.type=iwae", "objective.samples=5", "optimizer.learning_rate=0.01"}));
  const auto evaluate = [&](int samples) {
    const Spec spec = small_spec({"objective.type=iwae", cat("objective.samples=", samples)});
    return Evaluator(job.trainer.vae, spec, images()).run();
  };
  const Figures before = evaluate(5);
  job.run(200);
  const Figures one = evaluate(1), five = evaluate(5), fifty = evaluate(50);
  EXPECT_GT(five.bound(), before.bound() + 5);
  EXPECT_GT(five.bound(), one.bound() + 0.1);
  EXPECT_GT(fifty.bound(), five.bound() + 0.1);
  // With one sample it differs from the ELBO by the noise of the sampled KL divergence alone.
  EXPECT_NEAR(one.bound(), one.elbo, 1);
  for (const Figures& f : {one, five, fifty}) {
    EXPECT_EQ(f.bound(), f.further_named("iwae"));
    EXPECT_EQ(f.objective, -f.bound());
  }
}

TEST_P(Training, RivalKernelsAgreeOnImportanceWeights) {
  for (const char* likelihood : {"model.likelihood=bernoulli", "model.likelihood=gaussian"})
    for (const char* posterior : {"model.posterior=log_variance", "model.posterior=sigma"}) {
      const auto spec = [&](const char* kernels) {
        return small_spec({likelihood, posterior, cat("objective.kernels=", kernels), "objective.type=iwae",
                           "objective.samples=3", "model.initialization.type=glorot"});
      };
      Job fused(GetParam(), spec("fused")), unfused(GetParam(), spec("unfused"));
      fused.run(10);
      unfused.run(10);
      const Figures a = fused.trainer.figures(), b = unfused.trainer.figures();
      // As above.
      EXPECT_NEAR(a.bound(), b.bound(), 1e-5 * std::abs(b.bound())) << likelihood << posterior;
      EXPECT_NEAR(a.kl, b.kl, 1e-4 * (1 + std::abs(b.kl))) << likelihood << posterior;
    }
}

TEST_P(Training, AgreesWithTheCpu) {
  for (const char* setting :
       {"optimizer.type=adam", "optimizer.type=adagrad", "optimizer.type=sgd", "objective.type=iwae"}) {
    const std::vector<std::string> overrides = {setting, "data.binarize=dynamic", "objective.samples=2"};
    Job cpu("cpu", small_spec(overrides)), other(GetParam(), small_spec(overrides));
    for (std::uint32_t step = 1; step <= 100; ++step) {
      for (Trainer* t : {&cpu.trainer, &other.trainer}) {
        t->reset_figures();
        t->run_until(step);
        t->check();
      }
      const Figures a = cpu.trainer.figures(), b = other.trainer.figures();
      // the same noise, so only rounding differs; Adam's division by sqrt(v) lets it grow over 100 steps
      ASSERT_NEAR(a.objective, b.objective, 1e-4 * std::abs(a.objective)) << setting << " step " << step;
    }
  }
}

TEST_P(Training, LearnsSomething) {
  Job job(GetParam(), small_spec({"optimizer.learning_rate=0.01"}));
  job.run(5);
  const double before = job.trainer.figures().elbo;
  job.run(150);
  job.trainer.reset_figures();
  job.run(155);
  EXPECT_GT(job.trainer.figures().elbo, before + 5);
}

TEST_P(Training, EvaluationDoesNotDependOnResidency) {
  const ImageSet test = discs(700, 9, 7, 2);
  for (const char* binarize : {"data.binarize=none", "data.binarize=dynamic"}) {
    const Spec spec = small_spec({binarize, "data.residency=device"});
    Job job(GetParam(), spec);
    const Figures a = Evaluator(job.trainer.vae, spec, test).run();
    const Spec streamed_spec = small_spec({binarize, "data.residency=stream"});
    const Figures b = Evaluator(job.trainer.vae, streamed_spec, test).run();
    EXPECT_EQ(a.elbo, b.elbo) << binarize;
    EXPECT_EQ(a.unit_kl, b.unit_kl) << binarize;
    EXPECT_EQ(a.elbo, Evaluator(job.trainer.vae, spec, test).run().elbo) << "the same draws each time";
  }
}

// The figure that everybody reads, against the formulas in double, image by image.
TEST_P(Training, EvaluationIsTheMeanOverEveryImage) {
  const ImageSet test = discs(700, 9, 7, 2);
  for (const char* binarize : {"data.binarize=none", "data.binarize=threshold", "data.binarize=dynamic"}) {
    const Spec spec = small_spec({binarize});
    Job job(GetParam(), spec);
    job.run(40);
    const Figures got = Evaluator(job.trainer.vae, spec, test).run();
    const std::vector<float> weights = all_weights(job.trainer.vae);

    const auto dense = [&](const std::vector<double>& x, const std::string& name, Activation activation) {
      std::vector<double> y;
      for (const Parameter& p : job.trainer.vae.parameters.layout())
        if (p.name == name + ".bias")
          for (std::int64_t o = 0; o < p.shape[0]; ++o) y.push_back(weights[static_cast<std::size_t>(p.offset + o)]);
      for (const Parameter& p : job.trainer.vae.parameters.layout())
        if (p.name == name + ".weight")
          for (std::size_t o = 0; o < y.size(); ++o) {
            for (std::size_t i = 0; i < x.size(); ++i)
              y[o] += x[i] * weights[static_cast<std::size_t>(p.offset) + o * x.size() + i];
            y[o] = math::activate(activation, y[o]);
          }
      return y;
    };
    double reconstruction = 0, kl = 0;
    for (std::uint32_t row = 0; row < test.count; ++row) {
      std::vector<double> x;
      for (std::uint32_t p = 0; p < test.image_size(); ++p) {
        const std::uint8_t pixel = test.image(row)[p];
        const math::Words w = math::random_words({spec.seed, Purpose::binarize, ~0u, row, 0}, p / 4);
        const std::uint32_t words[] = {w.x, w.y, w.z, w.w};
        x.push_back(spec.data.binarize == Binarize::none        ? pixel / 255.0
                    : spec.data.binarize == Binarize::threshold ? (pixel >= 128 ? 1.0 : 0.0)
                    : math::bernoulli_draw(words[p % 4], pixel) ? 1.0
                                                                : 0.0);
      }
      const std::vector<double> stats =
          dense(dense(x, "encoder.0", Activation::relu), "encoder.2", Activation::identity);
      std::vector<double> z;
      for (std::uint32_t i = 0; i < 3; ++i) {
        const double eps = math::normals({spec.seed, Purpose::latent, ~0u, row, 0}, 0).v[i];
        z.push_back(stats[i] + math::posterior_sigma(Posterior::log_variance, stats[3 + i]) * eps);
        kl += math::gaussian_kl(Posterior::log_variance, stats[i], stats[3 + i]);
      }
      const std::vector<double> logits =
          dense(dense(z, "decoder.0", Activation::tanh), "decoder.2", Activation::identity);
      for (std::size_t p = 0; p < x.size(); ++p) reconstruction += math::bernoulli(logits[p], x[p]).value;
    }
    // f32 against double
    EXPECT_NEAR(got.reconstruction, reconstruction / 700, 1e-6 * reconstruction / 700) << binarize;
    EXPECT_NEAR(got.kl, kl / 700, 1e-5 * kl / 700) << binarize;
    EXPECT_EQ(got.elbo, -(got.reconstruction + got.kl));
  }
}

// Large batches from a recording where calls are launches, and an incomplete one; the same figures without recordings.
TEST_P(Training, ARecordedEvaluationDoesWhatItsCallsDo) {
  const std::string device = GetParam();
  const ImageSet test = discs(device == "cpu" ? 175 : 2048 + 45, 9, 7, 2);
  const std::string w1 = R"(model.decoder=[{"type":"dense","units":29,"activation":"relu"}])";
  for (const char* residency : {"data.residency=device", "data.residency=stream"}) {
    const Spec spec = small_spec({w1, residency, "data.binarize=dynamic"});
    Job recorded(GetParam(), spec, {.record = true}), called(GetParam(), spec, {.record = false});
    recorded.run(7);
    called.run(7);
    Evaluator with(recorded.trainer.vae, spec, test), without(called.trainer.vae, spec, test);
    const Figures a = with.run(), b = without.run(), again = with.run();
    EXPECT_EQ(a.reconstruction, b.reconstruction) << residency;
    EXPECT_EQ(a.unit_kl, b.unit_kl) << residency;
    EXPECT_EQ(a.elbo, again.elbo) << residency;
    EXPECT_EQ(a.unit_kl, again.unit_kl) << residency;
    EXPECT_EQ(without.graph_nodes(), 0u);
    if (device == "cuda") {  // cuBLASLt may have split a product, or have no such epilogue
      RecordProperty("nodes", static_cast<int>(with.graph_nodes()));
    } else {
      EXPECT_EQ(with.graph_nodes(), device == "cpu" ? 0u : 9u);
    }
    // In other batches (the CPU's are small), of products in another order of f32.
    Job cpu("cpu", spec);
    restore(cpu.trainer, make_checkpoint(recorded.trainer, spec, {7, 0, 0, ""}), "memory");
    const Figures small = Evaluator(cpu.trainer.vae, spec, test).run();
    EXPECT_NEAR(a.elbo, small.elbo, 1e-6 * std::abs(small.elbo)) << residency;
  }
}

// The plan for the 61 rows of the last batch needs more memory than that for the 64 before: its layers fit each other
// less well.
TEST_P(Training, TheLastBatchOfAnEvaluationMayNeedMoreMemory) {
  const auto layers = [](int first, int second) {
    return cat(R"([{"type":"dense","units":)", first, R"(},{"type":"dense","units":)", second, "}]");
  };
  const Spec spec = small_spec({"train.batch_size=64", "model.latent=100", "model.encoder=" + layers(300, 400),
                                "model.decoder=" + layers(400, 300)});
  const ImageSet test = discs(125, 20, 20);
  const OpenedDevice opened = open_device(GetParam());
  Vae vae(*opened.backend, spec, test.image_shape());
  EXPECT_TRUE(std::isfinite(Evaluator(vae, spec, test).run().elbo));

  const std::int64_t rows = Evaluator::choose_batch(vae, spec, test.count, opened.backend->info());
  const auto bytes = [&](std::int64_t n) {
    const StepBlocks blocks(spec, vae, {test.count, test.height, test.width, test.channels});
    return MemoryPlan(*evaluation_step(spec, vae, blocks, n, Indexing::sequential, {})).bytes;
  };
  EXPECT_GT(bytes(61), bytes(64));
  const Dataset sizes{.name = "discs", .train = test, .test = test};
  const DeviceInfo info = opened.backend->info();
  EXPECT_EQ(MemoryNeeds(spec, sizes, info).evaluation(test)[0].bytes,
            std::max(bytes(rows), test.count % rows ? bytes(test.count % rows) : 0));
}

// An evaluation takes 32 rows at least, whatever the batch of training is.
TEST(MemoryNeeds, AdviseWhatWouldHelp) {
  const DeviceInfo info = open_device("cpu").backend->info();
  const ImageSet test = discs(60, 5, 5);
  const Dataset sizes{.name = "discs", .train = test, .test = test};
  const auto advice = [&](const std::vector<std::string>& overrides) {
    const Spec spec = small_spec(overrides);
    return MemoryNeeds(spec, sizes, info).evaluation(test)[0].less;
  };
  const char* const iwae = R"(objective={"type":"iwae","samples":5})";
  EXPECT_EQ(advice({"train.batch_size=20"}), "");
  EXPECT_EQ(advice({"train.batch_size=50"}), "a smaller train.batch_size needs less");
  EXPECT_EQ(advice({iwae, "train.batch_size=20"}), "a smaller objective.samples needs less");
  EXPECT_EQ(advice({iwae, "train.batch_size=50"}), "a smaller train.batch_size or objective.samples needs less");
}

TEST_P(Training, WhatAGpuCannotCountIsRefusedBefore) {
  const OpenedDevice opened = open_device(GetParam());
  const DeviceInfo info = opened.backend->info();
  const ImageSet many{.count = 70000, .height = 2, .width = 2, .channels = 1, .pixels = {}, .labels = {}};
  const Dataset sizes{.name = "many", .train = many, .test = many};
  const auto needs = [&](const std::vector<std::string>& overrides) {
    const Spec spec = small_spec(overrides);
    return test::error_of([&] { MemoryNeeds(spec, sizes, info).step(); });
  };
  const std::string wide = R"(model.encoder=[{"type":"dense","units":65536}])",
                    deep = R"(model.encoder=[{"type":"dense","units":65536},{"type":"dense","units":65536}])";
  EXPECT_EQ(needs({wide, "train.batch_size=32767"}), "");
  if (!info.launches) {
    EXPECT_EQ(needs({deep, "train.batch_size=32768"}), "");
    return;
  }
  test::expect_words(needs({wide, "train.batch_size=32768"}),
                     {"the output of encoder.0", "2147483648 elements [32768, 65536]", "2^31 - 1", "train.batch_size"});
  test::expect_words(needs({deep}), {"the gradient of encoder.2.weight", "4294967296 elements", "2^31 - 1", "units"});
}

TEST_P(Training, ABatchOfTheEvaluationTakesLittleMemory) {
  const OpenedDevice opened = open_device(GetParam());
  const auto rows = [&](std::int64_t pixels, const std::vector<std::string>& overrides, std::int64_t count) {
    const Spec spec = small_spec(overrides);
    return Evaluator::choose_batch(Vae(*opened.backend, spec, {pixels, 1, 1}), spec, count, opened.backend->info());
  };
  const bool is_cpu = std::string(GetParam()) == "cpu";
  EXPECT_EQ(rows(63, {}, 10000), is_cpu ? 32 : 2048);
  EXPECT_EQ(rows(63, {}, 7), 7);
  EXPECT_EQ(rows(63, {"train.batch_size=4000"}, 10000), is_cpu ? 512 : 2048);
  // A row of 100,000 pixels is 4 + 1 bytes a pixel for the images, 4 for the output, and 1 kB: 900 kB.
  EXPECT_EQ(rows(100000, {}, 10000), is_cpu ? 32 : 288);
  EXPECT_EQ(rows(100000, {"objective.kernels=unfused"}, 10000), is_cpu ? 32 : 192);
  EXPECT_EQ(rows(100000, {"objective.type=iwae", "objective.samples=4"}, 10000), is_cpu ? 32 : 64);
  EXPECT_EQ(rows(100000, {"train.batch_size=500"}, 10000), 512) << "as many as train are not too many";
}

// ---- The beginning ----------------------------------------------------------------------------------------------

TEST_P(Training, InitialWeightsAreDistributedAsTheSpecSays) {
  const std::vector<std::string> wide = {"model.encoder.0.units=400", "model.decoder.0.units=300"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), wide.begin(), wide.end());
    return small_spec(more);
  };
  struct Case {
    Spec spec;
    // Bound of a uniform distribution, or the standard deviation of a normal one; 0: all zero.
    double (*scale)(const Parameter&);
    bool normal;
  };
  const Case cases[] = {
      {with({}), [](const Parameter& p) { return 1 / std::sqrt(double(p.fan_in)); }, false},
      {with({"model.initialization.type=glorot"}),
       [](const Parameter& p) { return p.shape.rank() == 1 ? 0 : std::sqrt(6.0 / double(p.fan_in + p.fan_out)); },
       false},
      {with({"model.initialization.type=normal", "model.initialization.std=0.02"}),
       [](const Parameter&) { return 0.02; }, true}};
  for (const Case& c : cases) {
    Job job(GetParam(), c.spec);
    const std::vector<float> weights = all_weights(job.trainer.vae);
    for (const Parameter& p : job.trainer.vae.parameters.layout()) {
      const std::int64_t in = p.name == "encoder.0.weight" ? 63 : p.name == "decoder.2.weight" ? 300 : 0;
      if (in) {
        EXPECT_EQ(p.fan_in, in);
      }
      const double scale = c.scale(p), n = static_cast<double>(p.shape.count());
      double most = 0, mean = 0, square = 0;
      for (std::int64_t i = 0; i < p.shape.count(); ++i) {
        const double w = weights[static_cast<std::size_t>(p.offset + i)];
        most = std::max(most, std::abs(w)), mean += w / n, square += w * w / n;
      }
      const double variance = c.normal ? scale * scale : scale * scale / 3;
      if (!c.normal) {
        EXPECT_LE(most, scale) << p.name;
      }
      // Five standard errors; the fourth moment of a normal distribution is the larger.
      EXPECT_NEAR(mean, 0, 5 * std::sqrt(variance / n)) << p.name;
      EXPECT_NEAR(square, variance, 5 * variance * std::sqrt(2 / n)) << p.name;
    }
  }
}

// ---- Divergence -------------------------------------------------------------------------------------------------

void plant(Trainer& trainer, const Tensor& flat, const std::string& name, float value) {
  for (const Parameter& p : trainer.vae.parameters.layout()) {
    if (p.name != name) continue;
    const Tensor element{flat.as<float>() + p.offset + p.shape.count() / 2, DType::f32, {1}};
    trainer.vae.device().upload(element, &value);
    return;
  }
  FAIL() << "no parameter " << name;
}

std::string message_of_divergence(Trainer& trainer, std::uint32_t end) {
  try {
    trainer.run_until(end);
    trainer.check();
  } catch (const Diverged& e) {
    return e.what();
  }
  return "";
}

TEST_P(Training, ANaNInAnyWeightStopsTheRunAndIsNamed) {
  for (const float value : {std::nanf(""), std::numeric_limits<float>::infinity()})
    for (const char* name :
         {"encoder.0.weight", "encoder.0.bias", "encoder.2.weight", "decoder.0.weight", "decoder.2.bias"}) {
      Job job(GetParam(), small_spec());
      job.run(7);
      plant(job.trainer, job.trainer.vae.parameters.memory(), name, value);
      const std::string message = message_of_divergence(job.trainer, 100);
      EXPECT_NE(message.find("step 8 "), std::string::npos) << message;
      EXPECT_NE(message.find(name), std::string::npos) << message;
      EXPECT_LE(job.trainer.step(), 7u + 16u);
    }
}

TEST_P(Training, ANaNInTheOptimizersStateStopsTheRunAndIsNamed) {
  Job job(GetParam(), small_spec());
  job.run(7);
  plant(job.trainer, job.trainer.optimizer.second_moment(), "decoder.0.weight", std::nanf(""));
  const std::string message = message_of_divergence(job.trainer, 100);
  EXPECT_NE(message.find("decoder.0.weight"), std::string::npos) << message;
  EXPECT_LE(job.trainer.step(), 7u + 16u);
}

TEST_P(Training, ALearningRateThatIsTooLargeIsSeenAsDivergence) {
  Job job(GetParam(), small_spec({"optimizer.type=sgd", "optimizer.learning_rate=1e18"}));
  const std::string message = message_of_divergence(job.trainer, 100);
  EXPECT_NE(message.find("training diverged at step "), std::string::npos) << message;
  EXPECT_LE(job.trainer.step(), 20u);
}

// Without epilogues: cuBLASLt's relu hides the NaN from the loss, so that the others take this one step.
TEST_P(Training, ADivergedRunLeavesTheOtherWeightsAlone) {
  Job job(GetParam(), small_spec(), {.epilogues = false});
  job.run(7);
  const std::vector<float> before = all_weights(job.trainer.vae);
  plant(job.trainer, job.trainer.vae.parameters.memory(), "encoder.0.bias", std::nanf(""));
  message_of_divergence(job.trainer, 100);
  const std::vector<float> after = all_weights(job.trainer.vae);
  std::size_t changed = 0;
  for (std::size_t i = 0; i < before.size(); ++i) changed += before[i] != after[i];
  EXPECT_EQ(changed, 1u) << "only the planted one";
}

TEST_P(Training, AGradientThatIsTooLargeIsNamed) {
  // s of about 100 gives dKL/ds = e^100 / 2: finite, but its square is not
  Job job(GetParam(), small_spec());
  job.run(7);
  for (const Parameter& p : job.trainer.vae.parameters.layout()) {
    if (p.name != "encoder.2.bias") continue;
    const float large = 70.0f;
    const std::int64_t s = p.offset + p.shape.count() / 2;
    job.opened.backend->upload({job.trainer.vae.parameters.memory().as<float>() + s, DType::f32, {1}}, &large);
  }
  const std::string message = message_of_divergence(job.trainer, 100);
  EXPECT_NE(message.find("step 8 "), std::string::npos) << message;
  EXPECT_NE(message.find(" is too large ("), std::string::npos) << message;
}

TEST_P(Training, FiguresThatAreNotFiniteAreDivergence) {
  Job job(GetParam(), small_spec());
  job.run(7);
  Evaluator evaluator(job.trainer.vae, small_spec(), images());
  evaluator.run();
  plant(job.trainer, job.trainer.vae.parameters.memory(), "encoder.2.bias",
        1e30f);  // finite, but neither its square nor its exp
  try {
    evaluator.run();
    FAIL() << "accepted";
  } catch (const Diverged& e) {
    EXPECT_NE(std::string(e.what()).find("images are not finite: reconstruction "), std::string::npos) << e.what();
  }
}

// ---- What cannot work ---------------------------------------------------------------------------------------------

TEST_P(Training, TooFewImagesForABatch) {
  const OpenedDevice device = open_device(GetParam());
  try {
    Trainer(*device.backend, small_spec({"train.batch_size=111"}), images());
    FAIL() << "accepted";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("train.batch_size is 111"), std::string::npos) << e.what();
  }
}

TEST_P(Training, ACheckpointOfAnotherNetwork) {
  Job job(GetParam(), small_spec());
  const TensorFile file = make_checkpoint(job.trainer, small_spec(), {});
  for (const char* change : {"model.latent=2", "model.encoder.0.units=38"}) {
    Job other(GetParam(), small_spec({change}));
    test::expect_words(test::error_of([&] { restore(other.trainer, file, "some.safetensors"); }),
                       {"some.safetensors: ", "another network", ": encoder."});
  }
}

TEST_P(Training, ACheckpointWithoutATensor) {
  Job job(GetParam(), small_spec());
  const TensorFile whole = make_checkpoint(job.trainer, small_spec(), {});
  for (std::size_t i = 0; i < whole.tensors.size(); ++i) {
    TensorFile file = whole;
    file.tensors.erase(file.tensors.begin() + static_cast<std::ptrdiff_t>(i));
    test::expect_words(test::error_of([&] { restore(job.trainer, file, "some.safetensors"); }),
                       {"some.safetensors: ", "another network", "'" + whole.tensors[i].name + "'"});
  }
}

// ---- The real thing -----------------------------------------------------------------------------------------------

TEST_P(Training, FreyFaceTrainsForThreeEpochsAsOnTheCpu) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "too slow under a sanitizer, and the small networks above walk through the same code";
#endif
  const Spec spec = load_spec("experiments/freyface-8d.json", {"train.epochs=3"});
  Dataset data;
  try {
    data = load_dataset(spec, data_directories(""));
  } catch (const Error& e) {
    if (std::getenv("ELBO_REQUIRE_DATA")) FAIL() << e.what();
    GTEST_SKIP() << e.what();
  }
  ASSERT_EQ(data.train.count, 1765);
  ASSERT_EQ(data.test.count, 200);
  double elbo[3][2];
  for (const int which : {0, 1}) {
    const OpenedDevice device = open_device(which == 0 ? "cpu" : GetParam());
    Trainer trainer(*device.backend, spec, data.train);
    Evaluator evaluator(trainer.vae, spec, data.test);
    for (std::uint32_t epoch = 0; epoch < 3; ++epoch) {
      trainer.run_until((epoch + 1) * trainer.batches_per_epoch());
      trainer.check();
      elbo[epoch][which] = evaluator.run().elbo;
    }
  }
  for (const auto& [cpu, other] : elbo) EXPECT_NEAR(cpu, other, 1e-4 * std::abs(cpu)) << "330 steps of rounding";
  EXPECT_GT(elbo[2][1], elbo[0][1]);
}

INSTANTIATE_TEST_SUITE_P(Devices, Training, testing::Values("cpu", "sim", "cuda"),
                         [](const auto& device) { return std::string(device.param); });

}  // namespace
}  // namespace elbo

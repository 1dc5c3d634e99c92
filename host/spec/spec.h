// An experiment, as its JSON file describes it. What every field means: `elbo schema`, made from the same
// table that parses (host/spec/spec.cpp).
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "elbo/math/optimizer.h"
#include "elbo/types.h"

namespace elbo {

enum class Split : std::uint8_t { holdout, none };  // none: train and test on every image
enum class Residency : std::uint8_t { automatic, device, stream };
enum class Initialization : std::uint8_t { pytorch, glorot, normal };
enum class ObjectiveType : std::uint8_t { elbo, iwae };
enum class WeightPrior : std::uint8_t { none, standard_normal };

struct LayerSpec {
  std::int64_t units = 0;
  Activation activation = Activation::relu;
};

struct Spec {
  std::string name;
  std::uint64_t seed = 0;

  struct Data {
    std::string dataset;  // a folder below the data directories: "mnist", "fashion-mnist", "freyface", ...
    Split split = Split::holdout;
    Binarize binarize = Binarize::none;
    Residency residency = Residency::automatic;
  } data;

  struct Model {
    std::int64_t latent = 0;
    Posterior posterior = Posterior::log_variance;
    std::vector<LayerSpec> encoder, decoder;  // hidden layers; heads and output layer are added
    Likelihood likelihood = Likelihood::bernoulli;
    double variance = 1.0;                 // of the Gaussian likelihood, unless it is learned
    bool is_variance_learned = false;      // the decoder gives it for each pixel
    PixelMean mean = PixelMean::identity;  // where the variance is learned
    Initialization initialization = Initialization::pytorch;
    double initialization_std = 0.01;  // of Initialization::normal
  } model;

  struct Objective {
    ObjectiveType type = ObjectiveType::elbo;
    double beta = 1.0;         // of the ELBO
    std::int64_t samples = 1;  // draws of z for each image
    LossVariant kernels = LossVariant::fused;
    WeightPrior weight_prior = WeightPrior::none;
  } objective;

  math::OptimizerSettings optimizer;

  struct Train {
    std::int64_t epochs = 0;
    std::int64_t batch_size = 0;
    Precision precision = Precision::fp32;
    std::int64_t checkpoint_epochs = 0;  // keep one every so many epochs; 0: only last and best
    std::int64_t checkpoint_steps = 0;   // also write `last` every so many steps; 0: every 30 s
  } train;

  // Where a field was given, and its name, for the beginning of an error: "spec.json:21: train.epochs",
  // "--set train.epochs=5: train.epochs"; "train.epochs" where it has its default.
  std::string where(const std::string& field) const;
  std::map<std::string, std::string> given;  // the first part of that, by field
};

// Reads and checks a spec; "-" is standard input. `overrides` are "path.to.field=value". Throws one Error that lists
// every mistake, each with file, line, path, what was expected and, where one is near, the name that was meant.
Spec load_spec(const std::string& path, const std::vector<std::string>& overrides = {});
Spec parse_spec(const std::string& text, const std::string& file, const std::vector<std::string>& overrides = {});

// What is minimised, for people: "reconstruction + 4 · KL".
std::string objective_text(const Spec&);

// The spec with every default filled in, as JSON text that parses back to the same spec.
std::string to_json(const Spec&);

// The draft-07 schema of a spec, as JSON text.
std::string spec_schema();

}  // namespace elbo

// The figures of a run, one record an epoch.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace elbo {

struct NamedFigure {
  std::string name;
  double value = 0;
};

// Averages over a set, in nats for each image. elbo = -(reconstruction + KL) whatever beta the training
// used; objective (of the ELBO: reconstruction + beta KL) is what was minimised, but for terms of the weights alone
// (weight prior, weight decay).
struct Figures {
  double elbo = 0, objective = 0, reconstruction = 0, kl = 0;
  std::vector<double> unit_kl{};       // [latent]
  std::vector<NamedFigure> further{};  // what else the objective gives, by the names of its losses

  // Whether it is one of those that every model has.
  static bool is_of_every_model(const std::string& name);
  // A further figure; NaN where there is none of that name.
  double further_named(const std::string& name) const;
  // By which a run's epochs are judged: the further figure that is a bound, where there is one, else the ELBO.
  NamedFigure judge() const;
  double bound() const { return judge().value; }
  // Whether a further figure of that name is a bound of the evidence: the higher the better.
  static bool is_bound(const std::string& name) { return name == importance_weighted; }
  static constexpr const char* importance_weighted = "iwae";
};

struct EpochMetrics {
  std::int64_t epoch = 0;        // 1 after the first epoch
  std::int64_t step = 0;         // optimiser steps so far
  Figures train;                 // running averages over the epoch's batches, as the weights were then
  Figures test;                  // after the epoch; one sample of z an image, with iwae as many as in training
  double images_per_second = 0;  // training only, this epoch
  double seconds = 0;            // wall time since the run began, earlier parts of a resumed run included
};

// One line of metrics.jsonl, without the newline; and back. Throws Error naming the field. Numbers of unknown names are
// further figures; what else a later version may write is passed over.
std::string to_json_line(const EpochMetrics&);
EpochMetrics parse_metrics(const std::string& line);

}  // namespace elbo

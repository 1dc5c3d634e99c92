// The report of a run, as `elbo run` and `elbo report` write it.
#pragma once
#include <string>
#include <vector>

#include "host/data/dataset.h"
#include "host/model/vae.h"
#include "host/spec/spec.h"
#include "host/train/metrics.h"

namespace elbo {

// Writes report.html and figures/ into the folder `out`, of the run in `folder` and the weights of now. `name` is its
// heading.
void make_report(const std::string& folder, const std::string& out, const std::string& name, const Spec&, Vae&,
                 const Dataset&, const std::vector<EpochMetrics>&);

}  // namespace elbo

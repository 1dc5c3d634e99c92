// The figures of epochs, for people.
#pragma once
#include <cstdint>
#include <string>

#include "host/train/metrics.h"

namespace elbo {

// A table of epochs, 80 columns wide up to 100,000 epochs: its head, and its lines. Reconstruction, KL and further
// figures, which make it wider, are the test set's. `like`: figures with the same further ones.
std::string epoch_head(const Figures& like, std::int64_t epochs);
std::string epoch_line(const EpochMetrics&, std::int64_t epochs);

// "reconstruction 80.100, KL 25.400", and further figures.
std::string parts_text(const Figures&);

}  // namespace elbo

// The pictures of a trained model.
#pragma once
#include <cstdint>
#include <functional>

#include "host/data/dataset.h"
#include "host/model/vae.h"
#include "host/report/report.h"
#include "host/spec/spec.h"
#include "host/train/memory_needs.h"

namespace elbo {

// Told how much of the work is done, from 0 to 1, again and again.
using Told = std::function<void(double done)>;

// How many images a report shows of each kind: fewer of those that are so large that their number would take minutes.
struct PictureCounts {
  std::int64_t originals, samples, manifold_side;
};
PictureCounts picture_counts(std::int64_t image_size);

// Everything in a ReportData that comes out of the model and its test images: 10 originals (the first of each
// class where there are labels, else evenly spaced) and their reconstructions from the posterior mean, 100 samples
// from the prior, for two latent units the manifold of 20 x 20, for two or three the posterior means of test images,
// equally many of each class unless one is rare. Large images are shrunk, and there are fewer of them. The same for the
// same weights, on every device up to rounding. The run's own facts (name, epochs, device, ...) are left to the caller.
ReportData collect_pictures(Vae&, const Spec&, const Dataset&, const Told& = {});

// What collect_pictures() takes of memory, and the report made of it.
Needs picture_needs(const MemoryNeeds&);

// Pixel means of `count` latent vectors from N(0, I), as images of the kind of `like`, shrunk until no side is longer
// than `longest_side`. The first of them do not depend on how many there are.
ImageStrip draw_samples(Vae&, const ImageSet& like, std::int64_t count, std::uint64_t seed, std::int64_t longest_side,
                        const Told& = {});
// What it takes of memory, and a sheet of the samples.
Needs sample_needs(const MemoryNeeds&, std::int64_t count, std::int64_t longest_side);

}  // namespace elbo

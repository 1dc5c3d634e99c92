// The pictures of a trained model.
#pragma once
#include "host/data/dataset.h"
#include "host/report/report.h"
#include "host/spec.h"
#include "host/vae.h"

namespace elbo {

// Everything in a ReportData that comes out of the model and its test images: 10 originals (the first of each
// class where there are labels, else evenly spaced) and their reconstructions from the posterior mean, 100 samples
// from the prior, for two latent units the manifold, for two or three the posterior means of test images, equally
// many of each class unless one is rare. Large images are shrunk. The same for the same weights, on every device up to
// rounding. The run's own facts (name, epochs, device, ...) are left to the caller.
ReportData collect_pictures(Vae&, const Spec&, const Dataset&);

// Pixel means of `count` latent vectors from N(0, I), as images of the kind of `like`, shrunk until no side is longer
// than `longest_side`. The first of them do not depend on how many there are.
ImageStrip draw_samples(Vae&, const ImageSet& like, std::int64_t count, std::uint64_t seed, std::int64_t longest_side);

}  // namespace elbo

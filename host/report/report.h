// A run's pictures: report.html, one page that opens offline, and the same pictures as PNG files.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "host/train/metrics.h"

namespace elbo {

// Grey or RGB images, values in [0, 1] (clipped when drawn).
struct ImageStrip {
  std::int64_t count = 0, height = 0, width = 0, channels = 1;
  std::vector<float> pixels;  // [count, height, width, channels]
};

struct ReportData {
  std::string name, spec_json, command;        // the resolved spec; the command line of the run
  std::string device, machine, version, date;  // for people; date in UTC
  double seconds = 0;
  std::int64_t parameters = 0, train_images = 0, test_images = 0;
  std::string objective;  // what was minimised, for people
  std::vector<EpochMetrics> epochs;

  ImageStrip originals, reconstructions;    // of the same test images
  std::vector<std::string> original_names;  // [originals.count] their classes, or empty
  ImageStrip samples;                       // decoded draws from N(0, I)
  // latent = 2: side x side images over the inverse Gaussian CDF grid, z1 growing to the right, z2 upwards
  ImageStrip manifold;
  std::int64_t manifold_side = 0;  // 0: no manifold

  std::int64_t latent = 0;
  std::vector<float> means;          // [n, latent] posterior means of test images; latent 2 or 3, else empty
  std::vector<std::uint8_t> labels;  // [n] their classes, or empty
  std::vector<std::string> class_names;
};

// Writes FOLDER/report.html and FOLDER/figures/*.png. Throws Error naming the file.
void write_report(const ReportData&, const std::string& folder);

}  // namespace elbo

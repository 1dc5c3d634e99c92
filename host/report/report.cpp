#include "host/report/report.h"

#include <filesystem>

#include "elbo/error.h"
#include "host/base/files.h"
#include "host/report/page.h"
#include "host/report/plot.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

// Makes sure that the images a strip says it has are there, all of one kind.
void check(const ImageStrip& strip, const char* name) {
  const std::int64_t pixels = strip.count * strip.height * strip.width * strip.channels;
  require(strip.count >= 0 && (strip.count == 0 || (strip.height > 0 && strip.width > 0)) &&
              (strip.channels == 1 || strip.channels == 3) && pixels == static_cast<std::int64_t>(strip.pixels.size()),
          "report: ", name, ": ", strip.pixels.size(), " pixels given for ", strip.count, " images of ", strip.height,
          " x ", strip.width, " x ", strip.channels, "; grey (1) or RGB (3) images were expected, every pixel of them");
}

void check(const ReportData& data) {
  check(data.originals, "originals");
  check(data.reconstructions, "reconstructions");
  check(data.samples, "samples");
  check(data.manifold, "manifold");
  require(data.originals.count == data.reconstructions.count, "report: ", data.originals.count, " originals but ",
          data.reconstructions.count, " reconstructions");
  require(data.original_names.empty() || static_cast<std::int64_t>(data.original_names.size()) == data.originals.count,
          "report: ", data.original_names.size(), " names for ", data.originals.count, " originals");
  require(data.manifold_side * data.manifold_side == data.manifold.count, "report: a manifold with ",
          data.manifold_side, " images on a side, but ", data.manifold.count, " images");
  if (data.means.empty()) return;
  require(data.latent >= 1 && data.means.size() % static_cast<std::size_t>(data.latent) == 0,
          "report: ", data.means.size(), " numbers are no posterior means of ", data.latent, " latent units");
  require(data.labels.empty() || data.labels.size() == data.means.size() / static_cast<std::size_t>(data.latent),
          "report: ", data.labels.size(), " labels for ", data.means.size() / static_cast<std::size_t>(data.latent),
          " posterior means");
}

}  // namespace

void write_report(const ReportData& data, const std::string& folder) {
  check(data);
  const auto make_folder = [](const fs::path& path) {
    std::error_code problem;
    fs::create_directories(path, problem);
    require(!problem, path.string(), ": this folder cannot be made: ", problem.message());
  };
  make_folder(folder);
  // First, since it tells what folder this is, should the rest be cut short.
  replace_file(fs::path(folder) / "report.html", report_page(data));

  const fs::path figures = fs::path(folder) / "figures";
  make_folder(figures);
  const auto write = [&](const char* name, const Picture& picture) { replace_file(figures / name, picture.png()); };
  if (!data.epochs.empty()) write("curves.png", curves(thinned(data.epochs)));
  if (data.originals.count > 0) write("reconstructions.png", originals_and_reconstructions(data));
  if (data.samples.count > 0) write("samples.png", samples(data));
  if ((data.latent == 2 || data.latent == 3) && !data.means.empty())
    write("scatter.png", scatter(data, Legend::inside));
  if (data.manifold_side > 0) write("manifold.png", manifold(data));
  if (!data.epochs.empty() && !data.epochs.back().test.unit_kl.empty())
    write("unit-kl.png", unit_kl(data.epochs.back().test.unit_kl));
}

}  // namespace elbo

// The pictures of a report, each a function of its data. Numbers that are not finite leave gaps.
#pragma once
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "host/report/picture.h"
#include "host/report/report.h"

namespace elbo {

// A unit whose KL is above this carries information about the image (nats).
inline constexpr double active_unit_nats = 0.01;

// "−238.12", with a true minus sign; "NaN", "∞".
std::string number(double value, int decimals);
// The same without decimals where there are six digits before them: a large image has millions of nats.
std::string short_number(double value, int decimals);

// The curves over epochs: test and training.
struct Measure {
  std::string name;         // within a sentence
  std::string title, unit;  // of a panel
  std::function<double(const Figures&)> value;
};
// Those of every model, then the further figures of the last epoch.
std::vector<Measure> measures_of(const std::vector<EpochMetrics>&);
// What a further figure is called.
std::string title_of_further(const std::string& name);
Picture curve_panel(const std::vector<EpochMetrics>&, const Measure&);
Picture curves(const std::vector<EpochMetrics>&);

// The best epoch by the bound of the test set; of equals the first. There must be one.
const EpochMetrics& best_epoch(const std::vector<EpochMetrics>&);
// At most most_epochs_shown of the epochs, in their order, of which the curves look the same: the first, the last, the
// best, and from each small stretch of the axis the lowest and highest values of every curve and where one has a gap.
inline constexpr std::size_t most_epochs_shown = 2000;
std::vector<EpochMetrics> thinned(const std::vector<EpochMetrics>&);

Picture originals_and_reconstructions(const ReportData&);
Picture samples(const ReportData&);

// A square of images over the unit square, both axes sent through the inverse normal distribution function.
Picture manifold(const ReportData&);

// The posterior means of two or three latent units. The page has a legend of its own.
enum class Legend { none, inside };
Picture scatter(const ReportData&, Legend);

// How a point of a 3-D scatter is seen, the cube [-1, 1]^3 filling most of [-1, 1]^2; page.js does the same.
struct View {
  double yaw = -0.5, pitch = 0.35;  // radians
};
struct Seen {
  double x, y;   // y upwards
  double depth;  // -1 (far) .. 1 (near), and a little beyond at the cube's corners
};
Seen look(const View&, std::array<double, 3> point);
// Half the side of the cube around the origin that holds 99 % of the means.
double cube_reach(const ReportData&);

Picture unit_kl(const std::vector<double>& nats);

}  // namespace elbo

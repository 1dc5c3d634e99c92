#include "host/report/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "elbo/math/normal.h"

namespace elbo {

std::string number(double value, int decimals) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "∞" : "−∞";
  const std::string digits = fmt::format("{:.{}f}", std::abs(value), decimals);
  const bool zero = digits.find_first_not_of("0.") == std::string::npos;
  return value < 0 && !zero ? "−" + digits : digits;
}

std::string short_number(double value, int decimals) { return number(value, std::abs(value) < 1e5 ? decimals : 0); }

// ---- Axes -------------------------------------------------------------------------------------------------

namespace {

// A stretch of numbers laid along a stretch of the picture.
struct Axis {
  double low, high;  // numbers
  double from, to;   // picture
  bool logarithmic = false;

  double operator()(double v) const {
    const double t = logarithmic  ? std::log(v / low) / std::log(high / low)
                     : high > low ? (v - low) / (high - low)
                                  : 0.5;
    return from + t * (to - from);
  }
};

// The step of about `count` round numbers over `span`: 1, 2 or 5 times a power of ten.
double round_step(double span, int count) {
  const double power = std::pow(10.0, std::floor(std::log10(span / count)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (span / (factor * power) <= count) return factor * power;
  return 10 * power;
}

struct Tick {
  double at;
  std::string label;
};

std::vector<Tick> ticks(const Axis& axis, int count, double smallest_step = 0) {
  std::vector<Tick> out;
  if (axis.logarithmic) {
    const bool many = axis.high / axis.low > 200, very_many = axis.high / axis.low > 2e4;
    for (double power = 1; power <= axis.high; power *= very_many ? 100 : 10)
      for (const double factor : {1.0, 2.0, 5.0})
        if ((factor == 1.0 || !many) && factor * power >= axis.low && factor * power <= axis.high)
          out.push_back({factor * power, number(factor * power, 0)});
    return out;
  }
  const double step = std::max(smallest_step, round_step(std::max(axis.high - axis.low, 1e-12), count));
  const double largest = std::max(std::abs(axis.low), std::abs(axis.high));
  const auto [unit, letter] = largest < 1e5   ? std::pair(1.0, "")
                              : largest < 1e7 ? std::pair(1e3, "k")
                                              : std::pair(1e6, "M");
  const int decimals = static_cast<int>(std::clamp(-std::floor(std::log10(step / unit)), 0.0, 9.0));
  const double first = std::ceil(axis.low / step - 1e-9);
  for (int i = 0; i <= 2 * count && (first + i) * step <= axis.high + 1e-9 * step; ++i)
    out.push_back({(first + i) * step, number((first + i) * step / unit, decimals) + letter});
  return out;
}

// A rule across the picture at each tick, its label on the left.
void draw_rules(Picture& picture, const Axis& y, int count, double left, double right) {
  for (const Tick& t : ticks(y, count)) {
    picture.line({left, y(t.at)}, {right, y(t.at)}, {Ink::rule});
    picture.text({left - 6, y(t.at) + 4}, t.label, {11, Ink::muted, Anchor::end});
  }
}

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;

  void include(double v) {
    if (!std::isfinite(v)) return;
    low = std::min(low, v);
    high = std::max(high, v);
  }
  bool empty() const { return low > high; }
  // What differs by less than nine digits tell counts as equal, lest ticks have the same label.
  Range widened(double part) const {
    const double size = std::max(1.0, std::abs(low)), by = high - low > 1e-8 * size ? part * (high - low) : 0.01 * size;
    return {low - by, high + by};
  }
};

}  // namespace

// ---- Curves -----------------------------------------------------------------------------------------------

namespace {

constexpr double panel_width = 340, panel_height = 248;
constexpr double panel_left = 46, panel_right = 262, panel_top = 48, panel_bottom = panel_height - 40;  // the plot
constexpr std::size_t most_epochs_on_a_linear_axis = 20;

Axis epoch_axis(const std::vector<EpochMetrics>& epochs) {
  const double first = static_cast<double>(epochs.front().epoch), last = static_cast<double>(epochs.back().epoch);
  return {first, last, panel_left, panel_right, epochs.size() > most_epochs_on_a_linear_axis && first >= 1};
}

Range range_of(const std::vector<EpochMetrics>& epochs, const Measure& measure) {
  Range range;
  for (const EpochMetrics& e : epochs) {
    range.include(measure.value(e.train));
    range.include(measure.value(e.test));
  }
  return range;
}

void draw_epoch_axis(Picture& picture, const Axis& x) {
  for (const Tick& t : ticks(x, 6, 1)) {
    picture.line({x(t.at), panel_bottom + 4}, {x(t.at), panel_bottom + 8}, {Ink::muted});
    picture.text({x(t.at), panel_bottom + 21}, t.label, {11, Ink::muted, Anchor::middle});
  }
  picture.text({panel_right, panel_bottom + 36}, x.logarithmic ? "epoch, log scale" : "epoch",
               {11, Ink::muted, Anchor::end});
}

struct Curve {
  const char* name;
  Figures EpochMetrics::*set;
  Ink ink, name_ink;
  double width;
};
// The later one lies on top.
constexpr std::array<Curve, 2> curves_of_a_panel{{{"train", &EpochMetrics::train, Ink::train, Ink::muted, 1.4},
                                                  {"test", &EpochMetrics::test, Ink::test, Ink::test, 2}}};

// Returns the last point, if there is any.
std::optional<Point> draw_curve(Picture& picture, const Curve& curve, const std::vector<EpochMetrics>& epochs,
                                const Measure& measure, const Axis& x, const Axis& y) {
  std::vector<Point> run;  // as far as the next gap
  const auto draw_run = [&] {
    if (run.empty()) return;
    picture.polyline(run, {curve.ink, curve.width}, fmt::format("curve {}", curve.name));
    if (run.size() == 1) picture.disc(run[0], curve.width, curve.ink);
    run.clear();
  };
  std::optional<Point> end;
  for (const EpochMetrics& e : epochs) {
    const double v = measure.value(e.*curve.set);
    if (std::isfinite(v))
      end = run.emplace_back(Point{x(static_cast<double>(e.epoch)), y(v)});
    else
      draw_run();
  }
  draw_run();
  return end;
}

// Where names that belong at these heights stand: apart by at least a line.
std::array<double, 2> moved_apart(std::array<double, 2> heights) {
  const double between = heights[1] - heights[0], least = 14;
  if (std::abs(between) >= least) return heights;
  const double push = (least - std::abs(between)) / 2 * (between < 0 ? -1 : 1);
  return {heights[0] - push, heights[1] + push};
}

// Names the curves at their ends, with their last values.
void name_curves(Picture& picture, const std::array<std::optional<Point>, 2>& ends, const EpochMetrics& last,
                 const Measure& measure) {
  std::array<double, 2> heights{};
  for (std::size_t i = 0; i < 2; ++i) heights[i] = ends[i] ? ends[i]->y : 0;
  if (ends[0] && ends[1]) heights = moved_apart(heights);
  for (std::size_t i = 0; i < 2; ++i) {
    if (!ends[i]) continue;
    const Curve& curve = curves_of_a_panel[i];
    picture.disc(*ends[i], 2.6, curve.ink);
    picture.text({ends[i]->x + 7, heights[i] + 4},
                 fmt::format("{} {}", curve.name, short_number(measure.value(last.*curve.set), 1)),
                 {11, curve.name_ink});
  }
}

std::string describe_curves(const std::vector<EpochMetrics>& epochs, const Measure& measure) {
  const EpochMetrics &first = epochs.front(), &last = epochs.back();
  return fmt::format(
      "{} by epoch, in nats per image. Test: {} after epoch {}, {} after epoch {}. Training: {}, then {}.",
      measure.title, number(measure.value(first.test), 2), first.epoch, number(measure.value(last.test), 2), last.epoch,
      number(measure.value(first.train), 2), number(measure.value(last.train), 2));
}

}  // namespace

std::string title_of_further(const std::string& name) {
  return name == Figures::importance_weighted ? "Importance-weighted bound" : name;
}

std::vector<Measure> measures_of(const std::vector<EpochMetrics>& epochs) {
  std::vector<Measure> measures = {
      {"ELBO", "ELBO", "nats per image; higher is better", &Figures::elbo},
      {"reconstruction", "Reconstruction", "−log p(x|z), nats per image; lower is better", &Figures::reconstruction},
      {"KL", "KL divergence", "nats per image", &Figures::kl}};
  if (epochs.empty()) return measures;
  for (const auto& [name, value] : epochs.back().test.further) {
    measures.push_back({name, title_of_further(name),
                        Figures::is_bound(name) ? "nats per image; higher is better" : "nats per image",
                        [name](const Figures& f) { return f.further_named(name); }});
  }
  return measures;
}

Picture curve_panel(const std::vector<EpochMetrics>& epochs, const Measure& measure) {
  Picture picture(panel_width, panel_height, describe_curves(epochs, measure));
  const Axis x = epoch_axis(epochs);
  picture.attribute("class", "panel");
  picture.attribute("data-from", number(x.from, 0));
  picture.attribute("data-to", number(x.to, 0));
  picture.attribute("data-scale", x.logarithmic ? "log" : "linear");
  picture.text({2, 16}, measure.title, {14, Ink::text});
  picture.text({2, 32}, measure.unit, {11});

  const Range range = range_of(epochs, measure);
  if (range.empty()) {
    picture.text({panel_width / 2, panel_height / 2}, "no finite value", {12, Ink::muted, Anchor::middle});
    return picture;
  }
  const auto [low, high] = range.widened(0.04);
  const Axis y{low, high, panel_bottom, panel_top};
  draw_rules(picture, y, 6, panel_left, panel_right);
  draw_epoch_axis(picture, x);
  std::array<std::optional<Point>, 2> ends;
  for (std::size_t i = 0; i < 2; ++i) ends[i] = draw_curve(picture, curves_of_a_panel[i], epochs, measure, x, y);
  name_curves(picture, ends, epochs.back(), measure);
  return picture;
}

Picture curves(const std::vector<EpochMetrics>& epochs) {
  const std::vector<Measure> measures = measures_of(epochs);
  std::string names;
  for (const Measure& m : measures) names += (names.empty() ? "" : ", ") + m.name;
  Picture picture(static_cast<double>(measures.size()) * panel_width, panel_height, names + " by epoch");
  for (std::size_t i = 0; i < measures.size(); ++i)
    picture.part({static_cast<double>(i) * panel_width, 0}, curve_panel(epochs, measures[i]));
  return picture;
}

const EpochMetrics& best_epoch(const std::vector<EpochMetrics>& epochs) {
  const auto better = [](const EpochMetrics& a, const EpochMetrics& b) {
    return !(a.test.bound() >= b.test.bound()) && !std::isnan(b.test.bound());  // a NaN is worse than anything
  };
  return *std::max_element(epochs.begin(), epochs.end(), better);
}

std::vector<EpochMetrics> thinned(const std::vector<EpochMetrics>& epochs) {
  if (epochs.size() <= most_epochs_shown) return epochs;
  const std::vector<Measure> measures = measures_of(epochs);
  const std::size_t curves = 2 * measures.size();  // training and test
  // What a stretch keeps: two epochs a curve, and one for gaps.
  const std::size_t stretches = (most_epochs_shown - 3) / (2 * curves + 1);

  const Axis axis = epoch_axis(epochs);
  const auto stretch_of = [&](const EpochMetrics& e) {
    const double part = (axis(static_cast<double>(e.epoch)) - axis.from) / (axis.to - axis.from);
    return part > 0
               ? std::min(stretches - 1, static_cast<std::size_t>(std::min(part, 1.0) * static_cast<double>(stretches)))
               : 0;
  };
  std::vector<std::size_t> kept = {0, static_cast<std::size_t>(&best_epoch(epochs) - epochs.data()), epochs.size() - 1};
  for (std::size_t first = 0, end; first < epochs.size(); first = end) {
    for (end = first + 1; end < epochs.size() && stretch_of(epochs[end]) == stretch_of(epochs[first]);) ++end;
    std::optional<std::size_t> gap;
    for (const Measure& measure : measures)
      for (Figures EpochMetrics::*set : {&EpochMetrics::train, &EpochMetrics::test}) {
        const auto value = [&](std::size_t i) { return measure.value(epochs[i].*set); };
        std::optional<std::size_t> low, high;
        for (std::size_t i = first; i < end; ++i) {
          if (!std::isfinite(value(i))) {
            if (!gap) gap = i;
            continue;
          }
          if (!low || value(i) < value(*low)) low = i;
          if (!high || value(i) > value(*high)) high = i;
        }
        for (const auto& i : {low, high})
          if (i) kept.push_back(*i);
      }
    if (gap) kept.push_back(*gap);
  }
  std::ranges::sort(kept);
  const auto repeated = std::ranges::unique(kept);
  kept.erase(repeated.begin(), repeated.end());
  std::vector<EpochMetrics> shown;
  for (const std::size_t i : kept) shown.push_back(epochs[i]);
  return shown;
}

// ---- Images -----------------------------------------------------------------------------------------------

namespace {

// Images in columns, drawn in whole pixels where they are small; not more than four times as tall as there is room
// across for each.
double image_scale(std::int64_t images_across, std::int64_t image_width, std::int64_t image_height, double room) {
  const auto tallest = static_cast<double>(std::max(image_width, (image_height + 3) / 4));
  const double scale = room / (static_cast<double>(images_across) * tallest);
  return scale >= 1 ? std::floor(scale) : scale;
}

}  // namespace

Picture originals_and_reconstructions(const ReportData& data) {
  const ImageStrip &above = data.originals, &below = data.reconstructions;
  const double scale = image_scale(above.count, above.width + 2, above.height, 900), left = 110;
  const double step = static_cast<double>(above.width + 2) * scale, tall = static_cast<double>(above.height) * scale;
  const bool named = !data.original_names.empty();
  const double first = named ? 26 : 8, second = first + tall + 2 * scale;
  Picture picture(left + step * static_cast<double>(above.count) + 8, second + tall + 8,
                  "Originals above their reconstructions");
  for (std::size_t i = 0; i < data.original_names.size(); ++i)
    picture.text({left + step * static_cast<double>(i) + static_cast<double>(above.width) * scale / 2, 18},
                 data.original_names[i], {12, Ink::muted, Anchor::middle});
  picture.text({left - 10, first + tall / 2 + 4}, "original", {13, Ink::text, Anchor::end});
  picture.text({left - 10, second + tall / 2 + 4}, "reconstruction", {13, Ink::text, Anchor::end});
  picture.image({left, first}, scale, contact_sheet(above, 0, above.count, above.count, 2));
  picture.image({left, second}, scale, contact_sheet(below, 0, below.count, below.count, 2));
  return picture;
}

Picture samples(const ReportData& data) {
  const std::int64_t columns = std::min<std::int64_t>(10, data.samples.count);
  const double scale = image_scale(columns, data.samples.width + 2, data.samples.height, 700);
  const Raster sheet = contact_sheet(data.samples, 0, data.samples.count, columns, 2);
  Picture picture(sheet.width * scale + 16, sheet.height * scale + 16, "Samples from the prior");
  picture.image({8, 8}, scale, sheet);
  return picture;
}

Picture manifold(const ReportData& data) {
  const std::int64_t side = data.manifold_side;
  const Raster sheet = contact_sheet(data.manifold, 0, side * side, side, 0);
  const double scale = image_scale(side, data.manifold.width, data.manifold.height, 640), left = 36, top = 8;
  const double right = left + sheet.width * scale, bottom = top + sheet.height * scale;
  Picture picture(
      right + 8, bottom + 40,
      fmt::format("The manifold: {0} by {0} decoded images, each unit running through the prior's quantiles "
                  "from {1} to {2}",
                  side, number(math::inverse_normal_cdf(0.5 / static_cast<double>(side)), 2),
                  number(math::inverse_normal_cdf(1 - 0.5 / static_cast<double>(side)), 2)));
  picture.image({left, top}, scale, sheet);
  for (const double z : {-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5}) {
    const Axis x{0, 1, left, right}, y{0, 1, bottom, top};
    const double p = math::normal_cdf(z);
    picture.line({x(p), bottom + 2}, {x(p), bottom + 6}, {Ink::muted});
    picture.text({x(p), bottom + 18}, number(z, 1), {11, Ink::muted, Anchor::middle});
    picture.line({left - 6, y(p)}, {left - 2, y(p)}, {Ink::muted});
    picture.text({left - 8, y(p) + 4}, number(z, 1), {11, Ink::muted, Anchor::end});
  }
  picture.text({(left + right) / 2, bottom + 34}, "z₁", {13, Ink::text, Anchor::middle});
  picture.text({11, top + (bottom - top) * 0.42}, "z₂", {13, Ink::text, Anchor::middle, true});
  return picture;
}

// ---- Latent space -----------------------------------------------------------------------------------------

namespace {

constexpr double plot_side = 560;

const char* const unit_names[] = {"z₁", "z₂", "z₃"};

std::string class_name(const ReportData& data, std::uint8_t label) {
  return label < data.class_names.size() ? data.class_names[label] : std::to_string(label);
}

std::size_t count_means(const ReportData& data) {
  return data.latent > 0 ? data.means.size() / static_cast<std::size_t>(data.latent) : 0;
}

bool finite(const float* mean, std::int64_t latent) {
  return std::all_of(mean, mean + latent, [](float v) { return std::isfinite(v); });
}

std::vector<std::uint8_t> classes_shown(const ReportData& data) {
  std::vector<std::uint8_t> labels = data.labels;
  std::sort(labels.begin(), labels.end());
  labels.erase(std::unique(labels.begin(), labels.end()), labels.end());
  return labels;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

// Names each class where the middle of its points is, the names moved apart where they would touch.
void name_classes(Picture& picture, const ReportData& data, const std::vector<Point>& points) {
  struct Name {
    std::uint8_t label;
    Point at;
    double half_width;
  };
  std::vector<Name> names;
  for (const std::uint8_t label : classes_shown(data)) {
    std::vector<double> xs, ys;
    for (std::size_t i = 0; i < points.size(); ++i)
      if (data.labels[i] == label && std::isfinite(points[i].x)) {
        xs.push_back(points[i].x);
        ys.push_back(points[i].y);
      }
    if (!xs.empty())
      names.push_back({label, {median(xs), median(ys)}, 3.6 * static_cast<double>(class_name(data, label).size())});
  }
  for (int round = 0; round < 60; ++round)
    for (Name& a : names)
      for (Name& b : names) {
        const double gap = 16 - (b.at.y - a.at.y);
        if (&a == &b || b.at.y < a.at.y || gap <= 0 || std::abs(a.at.x - b.at.x) > a.half_width + b.half_width)
          continue;
        a.at.y -= gap / 4;
        b.at.y += gap / 4;
      }
  for (const Name& n : names)
    picture.text({n.at.x, n.at.y + 4}, class_name(data, n.label), {13, Ink::text, Anchor::middle, false, true},
                 fmt::format("c{}", n.label));
}

void draw_legend(Picture& picture, const ReportData& data, double left) {
  double y = 24;
  for (const std::uint8_t label : classes_shown(data)) {
    picture.disc({left, y}, 5, class_ink(label));
    picture.text({left + 12, y + 4}, class_name(data, label), {12, Ink::text});
    y += 20;
  }
}

Ink mean_ink(const ReportData& data, std::size_t i) {
  return data.labels.empty() ? Ink::test : class_ink(data.labels[i]);
}

std::string mean_mark(const ReportData& data, std::size_t i) {
  return data.labels.empty() ? "mean" : fmt::format("mean c{}", data.labels[i]);
}

void draw_scatter_2d(Picture& picture, const ReportData& data) {
  const std::size_t n = count_means(data);
  std::array<Range, 2> range;
  for (Range& r : range) {  // the prior's 95 % always fits
    r.include(-2.7);
    r.include(2.7);
  }
  for (std::size_t i = 0; i < n; ++i)
    if (finite(&data.means[2 * i], 2))
      for (int k = 0; k < 2; ++k) range[k].include(data.means[2 * i + k]);

  // The same scale on both axes: a distance means the same in every direction.
  const double left = 36, top = 8, right = plot_side - 8, bottom = plot_side - 40;
  const double reach =
      0.52 * std::max(range[0].high - range[0].low, (range[1].high - range[1].low) * (right - left) / (bottom - top));
  const double unit = (right - left) / (2 * reach);
  const double cx = (range[0].low + range[0].high) / 2, cy = (range[1].low + range[1].high) / 2;
  const double tall = (bottom - top) / unit / 2;
  const Axis x{cx - reach, cx + reach, left, right}, y{cy - tall, cy + tall, bottom, top};

  for (const Tick& t : ticks(x, 8)) {
    picture.line({x(t.at), top}, {x(t.at), bottom}, {Ink::rule});
    picture.text({x(t.at), bottom + 16}, t.label, {11, Ink::muted, Anchor::middle});
  }
  draw_rules(picture, y, 8, left, right);
  picture.text({(left + right) / 2, bottom + 34}, "z₁", {13, Ink::text, Anchor::middle});
  picture.text({11, (top + bottom) / 2}, "z₂", {13, Ink::text, Anchor::middle, true});

  std::vector<Point> points(n, {std::nan(""), std::nan("")});
  for (std::size_t i = 0; i < n; ++i) {
    if (!finite(&data.means[2 * i], 2)) continue;
    points[i] = {x(data.means[2 * i]), y(data.means[2 * i + 1])};
    picture.disc(points[i], n > 1500 ? 2 : 2.6, mean_ink(data, i), 0.8, mean_mark(data, i));
  }
  for (const auto& [part, label] : {std::pair{0.5, "50 %"}, std::pair{0.95, "95 % of the prior"}}) {
    const double radius = std::sqrt(-2 * std::log(1 - part)) * unit;
    picture.ring({x(0), y(0)}, radius, {Ink::text, 1, true});
    picture.text({x(0), y(0) - radius - 4}, label, {11, Ink::text, Anchor::middle, false, true});
  }
  if (!data.labels.empty()) name_classes(picture, data, points);
}

void draw_scatter_3d(Picture& picture, const ReportData& data) {
  const View view;
  const double reach = cube_reach(data);
  const auto place = [](const Seen& s) { return Point{plot_side / 2 * (1 + s.x), plot_side / 2 * (1 - s.y)}; };
  const auto edge = [&](std::array<double, 3> a, std::array<double, 3> b, Stroke stroke) {
    picture.line(place(look(view, a)), place(look(view, b)), stroke);
  };

  for (int axis = 0; axis < 3; ++axis)
    for (const double u : {-1.0, 1.0})
      for (const double v : {-1.0, 1.0}) {
        std::array<double, 3> a{}, b{};
        a[axis] = -1;
        b[axis] = 1;
        a[(axis + 1) % 3] = b[(axis + 1) % 3] = u;
        a[(axis + 2) % 3] = b[(axis + 2) % 3] = v;
        edge(a, b, {Ink::rule, 1.2});
      }

  struct Placed {
    std::size_t index;
    Seen seen;
  };
  std::vector<Placed> order;
  for (std::size_t i = 0; i < count_means(data); ++i) {
    const float* m = &data.means[3 * i];
    if (finite(m, 3)) order.push_back({i, look(view, {m[0] / reach, m[1] / reach, m[2] / reach})});
  }
  std::sort(order.begin(), order.end(), [](const Placed& a, const Placed& b) { return a.seen.depth < b.seen.depth; });
  std::vector<Point> points(count_means(data), {std::nan(""), std::nan("")});
  for (const Placed& p : order) {
    points[p.index] = place(p.seen);
    const double nearness = std::clamp(0.5 + 0.8 * p.seen.depth, 0.0, 1.0);
    picture.disc(points[p.index], 1.6 + 1.4 * nearness, mean_ink(data, p.index), 0.35 + 0.55 * nearness,
                 mean_mark(data, p.index));
  }

  for (int axis = 0; axis < 3; ++axis) {
    std::array<double, 3> end{}, name{};
    end[axis] = 1;
    name[axis] = 1.09;
    edge({0, 0, 0}, end, {Ink::muted, 1.2});
    const Point at = place(look(view, name));
    picture.text({at.x, at.y + 4}, unit_names[axis], {14, Ink::text, Anchor::middle, false, true});
  }
  if (!data.labels.empty()) name_classes(picture, data, points);
}

}  // namespace

Seen look(const View& view, std::array<double, 3> p) {
  const double c = std::cos(view.yaw), s = std::sin(view.yaw), d = std::cos(view.pitch), t = std::sin(view.pitch);
  const double x = c * p[0] + s * p[2], z = c * p[2] - s * p[0];
  const double y = d * p[1] - t * z, depth = t * p[1] + d * z;
  const double distance = 5, size = 0.56 * distance / (distance - depth);
  return {size * x, size * y, depth};
}

double cube_reach(const ReportData& data) {
  std::vector<double> farthest;  // coordinate of each mean
  for (std::size_t i = 0; i < data.means.size(); i += 3)
    if (const float* m = &data.means[i]; finite(m, 3))
      farthest.push_back(std::max({std::abs(m[0]), std::abs(m[1]), std::abs(m[2])}));
  if (farthest.empty()) return 1;
  std::sort(farthest.begin(), farthest.end());
  return std::max(1.0, std::ceil(2 * farthest[(farthest.size() - 1) * 99 / 100]) / 2);
}

Picture scatter(const ReportData& data, Legend legend) {
  const bool inside = legend == Legend::inside && !data.labels.empty();
  Picture picture(plot_side + (inside ? 120 : 0), plot_side,
                  fmt::format("Posterior means of {} test images in {} dimensions{}", count_means(data), data.latent,
                              data.labels.empty() ? "" : ", coloured by class"));
  if (data.latent == 2)
    draw_scatter_2d(picture, data);
  else
    draw_scatter_3d(picture, data);
  if (inside) draw_legend(picture, data, plot_side + 12);
  return picture;
}

// ---- Latent units -----------------------------------------------------------------------------------------

Picture unit_kl(const std::vector<double>& nats) {
  const auto known = [&](std::size_t i) { return std::isnan(nats[i]) ? -1.0 : nats[i]; };
  std::vector<std::size_t> order(nats.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return known(a) > known(b); });

  Range range;
  range.include(0);
  for (const double v : nats) range.include(v);
  const double units = static_cast<double>(nats.size()), slot = std::clamp(500 / units, 2.0, 44.0);
  const double left = 46, top = 42, bottom = 206, right = left + std::max(260.0, slot * units);
  const Axis y{0, std::max(range.high, active_unit_nats), bottom, top};
  const auto active = std::count_if(nats.begin(), nats.end(), [](double v) { return v > active_unit_nats; });
  const bool has_border = active > 0 && active < std::ssize(nats);  // between active units and others, with their names
  const double border = left + slot * static_cast<double>(active);
  Picture picture(
      std::max(right + 12, has_border ? border + 58 : 0.0), bottom + 42,
      fmt::format("KL divergence of each latent unit in nats, sorted: {} of {} units are active", active, nats.size()));
  draw_rules(picture, y, 5, left, right);
  for (std::size_t i = 0; i < order.size(); ++i) {
    const double v = nats[order[i]], x = left + slot * static_cast<double>(i), centre = x + slot / 2;
    const double height = std::isfinite(v) ? std::max(2.0, bottom - y(v)) : 0;
    picture.box({x + slot * 0.12, bottom - height}, slot * 0.76, height,
                v > active_unit_nats ? Ink::test : Ink::inactive, v > active_unit_nats ? "bar active" : "bar");
    if (slot >= 34 || !std::isfinite(v))
      picture.text({centre, bottom - height - 5}, number(v, v < 0.1 ? 3 : 2), {11, Ink::text, Anchor::middle});
    if (slot >= 15) picture.text({centre, bottom + 15}, std::to_string(order[i] + 1), {11, Ink::muted, Anchor::middle});
  }
  if (has_border) {
    picture.line({border, top + 10}, {border, bottom}, {Ink::muted, 1, true});
    picture.text({border - 5, top + 20}, "active", {11, Ink::test, Anchor::end, false, true});
    picture.text({border + 5, top + 20}, "inactive", {11, Ink::muted, Anchor::start, false, true});
  }
  picture.text({left, bottom + 32}, slot >= 15 ? "latent unit, most used first" : "latent units, most used first",
               {11});
  picture.text({2, 12}, fmt::format("KL of a unit, nats per image; {} of {} active", active, nats.size()),
               {13, Ink::text});
  return picture;
}

}  // namespace elbo

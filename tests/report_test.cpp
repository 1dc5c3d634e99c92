// The report of made-up runs: what the page says, what the pictures are, what happens with odd data.
#include "host/report/report.h"

#include <cairo.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <limits>
#include <set>
#include <sstream>

#include "elbo/error.h"
#include "elbo/math/normal.h"
#include "host/base/devices.h"
#include "host/report/collect.h"
#include "host/report/page.h"
#include "host/report/plot.h"
#include "tests/report_samples.h"

namespace elbo {
namespace {

namespace fs = std::filesystem;

std::string read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

std::size_t occurrences(const std::string& text, const std::string& of) {
  std::size_t n = 0;
  for (std::size_t at = 0; (at = text.find(of, at)) != std::string::npos; at += of.size()) ++n;
  return n;
}

// What stands between `from` and the next `to`, each time.
std::vector<std::string> between(const std::string& text, const std::string& from, const std::string& to) {
  std::vector<std::string> found;
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos;) {
    at += from.size();
    found.push_back(text.substr(at, text.find(to, at) - at));
  }
  return found;
}

// Points in the polylines of the page's curves of this name ("test", "train"), all panels together.
std::size_t curve_points(const std::string& page, const std::string& name) {
  std::size_t points = 0;
  for (const std::string& line : between(page, "<polyline class=\"curve " + name + "\"", ">"))
    points += occurrences(line, ",");
  return points;
}

struct Size {
  int width, height;
  bool operator==(const Size&) const = default;
};

Raster read_png(const std::string& png) {
  std::istringstream in(png);
  const auto next = [](void* from, unsigned char* to, unsigned int size) {
    return static_cast<std::istream*>(from)->read(reinterpret_cast<char*>(to), size) ? CAIRO_STATUS_SUCCESS
                                                                                     : CAIRO_STATUS_READ_ERROR;
  };
  cairo_surface_t* const surface = cairo_image_surface_create_from_png_stream(next, static_cast<std::istream*>(&in));
  EXPECT_EQ(cairo_surface_status(surface), CAIRO_STATUS_SUCCESS);
  EXPECT_EQ(in.peek(), EOF);
  Raster raster{cairo_image_surface_get_width(surface), cairo_image_surface_get_height(surface), {}};
  const std::uint32_t opaque = cairo_image_surface_get_format(surface) == CAIRO_FORMAT_RGB24 ? 0xff000000 : 0;
  for (std::ptrdiff_t y = 0; y < raster.height; ++y) {
    const auto* row = reinterpret_cast<const std::uint32_t*>(cairo_image_surface_get_data(surface) +
                                                             y * cairo_image_surface_get_stride(surface));
    for (int x = 0; x < raster.width; ++x) raster.argb.push_back(row[x] | opaque);
  }
  cairo_surface_destroy(surface);
  return raster;
}

// What a figure has at a place in the picture's units, two pixels for each.
std::uint32_t colour_at(const Raster& figure, double x, double y) {
  return figure.argb.at(static_cast<std::size_t>(static_cast<int>(2 * y) * figure.width + static_cast<int>(2 * x)));
}

// The pixels of an image, each drawn as a square.
void expect_image(const Raster& figure, const Raster& image, Point corner, double scale) {
  for (int y = 0; y < image.height; ++y)
    for (int x = 0; x < image.width; ++x)
      if (const std::uint32_t pixel = image.argb[static_cast<std::size_t>(y * image.width + x)]; pixel != 0) {
        EXPECT_EQ(colour_at(figure, corner.x + (x + 0.5) * scale, corner.y + (y + 0.5) * scale), pixel)
            << "pixel " << x << ", " << y;
      }
}

// A page that loads nothing, tells what its pictures show, and holds no number that slipped through.
void expect_sound(const std::string& page) {
  EXPECT_EQ(page.find("http://"), std::string::npos);
  EXPECT_EQ(page.find("https://"), std::string::npos);
  EXPECT_EQ(page.find("@import"), std::string::npos);
  EXPECT_EQ(page.find("url("), std::string::npos);
  for (const char* attribute : {" src=\"", " href=\""})
    for (const std::string& target : between(page, attribute, "\"")) EXPECT_EQ(target.rfind("data:", 0), 0u) << target;
  for (const auto& [tag, attribute] : {std::pair{"<img", " alt=\""}, std::pair{"<svg", " aria-label=\""}})
    for (const std::string& attributes : between(page, tag, ">")) {
      const std::size_t text = attributes.find(attribute);
      EXPECT_TRUE(text != std::string::npos && attributes.at(text + std::strlen(attribute)) != '"') << attributes;
    }
  for (const char* tag : {"<polyline", "<line", "<circle", "<rect", "<text"})
    for (const std::string& attributes : between(page, tag, ">"))
      EXPECT_TRUE(attributes.find("nan") == std::string::npos && attributes.find("inf") == std::string::npos)
          << attributes;
  EXPECT_EQ(occurrences(page, "<script"), 2u);
  EXPECT_EQ(occurrences(page, "</script"), 2u);
}

class Report : public ::testing::Test {
 protected:
  Report() : folder_(fs::temp_directory_path() / ("elbo-report-" + std::to_string(::getpid()))) {}
  ~Report() override { fs::remove_all(folder_); }

  std::string page_of(const ReportData& data) {
    write_report(data, folder_);
    const std::string page = read(folder_ / "report.html");
    expect_sound(page);
    return page;
  }
  std::vector<std::string> figures() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_ / "figures")) names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }
  Raster figure(const char* name) const { return read_png(read(folder_ / "figures" / name)); }
  Size size_of(const char* name) const {
    const Raster raster = figure(name);
    return {raster.width, raster.height};
  }

  const fs::path folder_;
};

using Names = std::vector<std::string>;

TEST_F(Report, TwoLatentUnits) {
  const std::string page = page_of(made_up_report(2, 3));
  EXPECT_EQ(figures(),
            (Names{"curves.png", "manifold.png", "reconstructions.png", "samples.png", "scatter.png", "unit-kl.png"}));
  EXPECT_EQ(size_of("curves.png"), (Size{3 * 340 * 2, 248 * 2}));
  EXPECT_EQ(size_of("scatter.png"), (Size{2 * 680, 2 * 560}));
  EXPECT_EQ(size_of("samples.png"), (Size{2 * (10 * (10 * 7 - 2) + 16), 2 * (10 * (10 * 8 - 2) + 16)}));
  EXPECT_EQ(curve_points(page, "test"), 9u);
  EXPECT_EQ(curve_points(page, "train"), 9u);
  EXPECT_EQ(occurrences(page, "<circle class=\"mean "), 200u);
  EXPECT_EQ(occurrences(page, "<button type=\"button\" aria-pressed=\"true\""), 10u);
  for (const char* words :
       {"<title>made-up · elbo</title>", "−173.00", "166.67", "6.33", "1 min 01 s", "12,346", "203,412",
        "nats per image", "elbo run made-up.json", "cpu, 2 threads", "a machine", "2024-02-29 12:00 UTC", "0.0.0",
        "60,000 for training", "2 of 2 units are active", "prefers-color-scheme: dark", "@media print"})
    EXPECT_NE(page.find(words), std::string::npos) << words;
}

TEST_F(Report, ThreeLatentUnitsTurn) {
  const std::string page = page_of(made_up_report(3, 3));
  EXPECT_EQ(figures(), (Names{"curves.png", "reconstructions.png", "samples.png", "scatter.png", "unit-kl.png"}));
  EXPECT_EQ(occurrences(page, "<circle class=\"mean "), 200u);
  EXPECT_NE(page.find("<div class=\"turn\">"), std::string::npos);
  const std::string scatter = between(page, "\"scatter\":{", "</script>").at(0);  // what the script turns
  EXPECT_EQ(occurrences(between(scatter, "\"means\":[", "]").at(0), ","), 3 * 200u - 1);
  EXPECT_EQ(occurrences(between(scatter, "\"labels\":[", "]").at(0), ","), 200u - 1);
}

TEST_F(Report, EightLatentUnitsHaveNoScatter) {
  const std::string page = page_of(made_up_report(8, 3));
  EXPECT_EQ(figures(), (Names{"curves.png", "reconstructions.png", "samples.png", "unit-kl.png"}));
  EXPECT_EQ(page.find("id=\"latent\""), std::string::npos);
  EXPECT_EQ(occurrences(page, "class=\"bar active\""), 6u);
  EXPECT_EQ(occurrences(page, "class=\"bar\""), 2u);
  EXPECT_NE(page.find("6 of 8 units are active"), std::string::npos);
}

TEST_F(Report, WithoutLabels) {
  for (const int latent : {2, 3}) {
    ReportData data = made_up_report(latent, 2);
    data.labels.clear();
    data.class_names.clear();
    data.original_names.clear();
    const std::string page = page_of(data);
    EXPECT_EQ(occurrences(page, "<button"), 0u);
    EXPECT_EQ(occurrences(page, "<circle class=\"mean\""), 200u);
    EXPECT_EQ(size_of("scatter.png"), (Size{2 * 560, 2 * 560}));  // no room for a legend
  }
}

TEST_F(Report, ColourImages) {
  ReportData data = made_up_report(8, 1);
  data.originals = data.reconstructions = made_up_images(5, 3);
  for (float& pixel : data.reconstructions.pixels) pixel = 1 - pixel;
  data.original_names.clear();
  data.samples = made_up_images(7, 3);
  const std::string page = page_of(data);
  const Raster above = contact_sheet(data.originals, 0, 5, 5, 2),
               below = contact_sheet(data.reconstructions, 0, 5, 5, 2),
               samples = contact_sheet(data.samples, 0, 7, 7, 2);
  for (const Raster* sheet : {&above, &below, &samples}) {
    const std::uint32_t first = sheet->argb[0];  // colour, not grey
    EXPECT_NE(first & 255, first >> 8 & 255);
    EXPECT_NE(page.find(" src=\"" + data_uri(sheet->png()) + "\""), std::string::npos);
  }
  const Raster reconstructions = figure("reconstructions.png");
  expect_image(reconstructions, above, {110, 8}, 25);
  expect_image(reconstructions, below, {110, 8 + 25 * (6 + 2)}, 25);
  expect_image(figure("samples.png"), samples, {8, 8}, 14);
}

TEST_F(Report, OneEpochAndNone) {
  EXPECT_EQ(curve_points(page_of(made_up_report(2, 1)), "test"), 3u);
  const std::string page = page_of(made_up_report(2, 0));
  EXPECT_EQ(curve_points(page, "test"), 0u);
  EXPECT_NE(page.find("No epoch was finished."), std::string::npos);
}

TEST_F(Report, TwoThousandEpochs) {
  const std::string page = page_of(made_up_report(2, 2000));
  EXPECT_EQ(curve_points(page, "test"), 6000u);
  EXPECT_EQ(curve_points(page, "train"), 6000u);
  EXPECT_EQ(occurrences(between(page, "<details class=\"epochs\">", "</details>").at(0), "<tr><th scope=\"row\">"),
            2000u);
  EXPECT_NE(page.find("epoch, log scale"), std::string::npos);
  EXPECT_LT(page.size(), std::size_t{2} << 20);
}

// Curves of very many epochs are thinned out, to a page that is not larger for them; what it says of all is exact.
TEST_F(Report, AHundredThousandEpochs) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  ReportData data = made_up_report(2, 100000);
  for (EpochMetrics& e : data.epochs)  // without noise, a stretch would keep little more than its ends
    for (Figures* f : {&e.train, &e.test})
      for (double* v : {&f->elbo, &f->reconstruction, &f->kl})
        *v += 1e-3 * scatter_number(e.epoch * 6 + (f == &e.test) * 3 + (v - &f->elbo));
  data.epochs[43210].test.elbo = -100;         // the best, and a peak
  data.epochs[76543].train.kl = 1234;          // another
  data.epochs[65432].test.reconstruction = 3;  // a trough
  data.epochs[54321].train.elbo = nan;         // a gap
  const std::string page = page_of(data);
  EXPECT_LT(page.size(), std::size_t{1} << 20);
  const std::string script = between(page, "<script type=\"application/json\" id=\"data\">", "</script>").at(0);
  const std::string table = between(page, "<details class=\"epochs\">", "</details>").at(0);
  const std::size_t shown = occurrences(table, "<tr><th scope=\"row\">");
  EXPECT_GT(shown, most_epochs_shown / 3);
  EXPECT_LE(shown, most_epochs_shown);
  EXPECT_EQ(occurrences(script, "\"epoch\":"), shown);
  EXPECT_EQ(curve_points(page, "test"), 3 * shown);
  EXPECT_EQ(curve_points(page, "train"), 3 * shown - 1);
  for (const char* epoch : {"1", "2", "43211", "54322", "65433", "76544", "100000"})
    EXPECT_NE(table.find(std::string("<tr><th scope=\"row\">") + epoch + "</th>"), std::string::npos) << epoch;
  for (const char* words : {"best −100.00, epoch 43211", "100,000 epochs", "1 of 100000 epochs have values",
                            " of 100,000 epochs</summary>"})
    EXPECT_NE(page.find(words), std::string::npos) << words;
}

// What is kept of a curve goes through all its highest and lowest values: in every stretch as wide as a hundredth of
// the axis the thinned curve has the range of the whole one, to within what its neighbours reach.
TEST(Thinned, KeepsTheRangeOfEveryStretch) {
  std::vector<EpochMetrics> epochs = made_up_report(1, 30000).epochs;
  for (EpochMetrics& e : epochs) {
    e.test.kl += scatter_number(e.epoch);
    e.train.elbo -= 50 * scatter_number(3 * e.epoch);
  }
  const std::vector<EpochMetrics> shown = thinned(epochs);
  EXPECT_LE(shown.size(), most_epochs_shown);
  EXPECT_TRUE(std::ranges::is_sorted(shown, std::less<>(), &EpochMetrics::epoch));
  for (const auto& value : {std::function<double(const EpochMetrics&)>([](const auto& e) { return e.test.kl; }),
                            std::function<double(const EpochMetrics&)>([](const auto& e) { return e.train.elbo; })})
    for (double from = 1; from < 29000; from *= 1.2) {
      const auto range = [&](const std::vector<EpochMetrics>& of, double widened) {
        double low = INFINITY, high = -INFINITY;
        for (const EpochMetrics& e : of)
          if (static_cast<double>(e.epoch) >= from / widened && static_cast<double>(e.epoch) < 1.2 * from * widened)
            low = std::min(low, value(e)), high = std::max(high, value(e));
        return std::pair(low, high);
      };
      const auto [low, high] = range(epochs, 1);
      const auto [shown_low, shown_high] = range(shown, 1.1);
      EXPECT_LE(shown_low, low) << from;
      EXPECT_GE(shown_high, high) << from;
    }
  EXPECT_EQ(thinned({epochs.begin(), epochs.begin() + most_epochs_shown}).size(), most_epochs_shown);
}

// A figure that the objective gives beside those of every model.
TEST_F(Report, AFurtherFigureIsACurveAndANumber) {
  ReportData data = made_up_report(2, 9);
  for (EpochMetrics& e : data.epochs) {
    e.train.further = {{"a<b", 2000.5}};
    e.test.further = {{"a<b", 1000.0 + static_cast<double>(e.epoch)}};
  }
  data.epochs[4].train.further.clear();
  const std::string page = page_of(data);
  EXPECT_EQ(occurrences(page, "class=\"panel\""), 4u);
  EXPECT_EQ(curve_points(page, "test"), 4u * 9);
  EXPECT_EQ(curve_points(page, "train"), 4u * 9 - 1) << "a gap where it is missing";
  for (const char* words : {"<dt>a&lt;b</dt><dd>1009.00 ", ">a&lt;b</th>", "<td>1003.000</td><td>2000.500</td>",
                            "\"measures\":[\"ELBO\",\"reconstruction\",\"KL\",\"a\\u003cb\"]"})
    EXPECT_NE(page.find(words), std::string::npos) << words;
  EXPECT_EQ(page.find("a<b"), std::string::npos);
}

// The best epoch is the one by the bound that was maximised.
TEST_F(Report, AnImportanceWeightedBoundJudges) {
  ReportData data = made_up_report(2, 9);
  for (EpochMetrics& e : data.epochs) e.train.further = e.test.further = {{"iwae", e.epoch == 3 ? -60.5 : -70}};
  data.epochs[5].train.further[0].value = std::numeric_limits<double>::quiet_NaN();
  const std::string page = page_of(data);
  for (const char* words : {"class=\"first\"><dt>Importance-weighted bound</dt>"
                            "<dd>−70.00 <small>nats per image; best −60.50, epoch 3</small>",
                            "1 of 9 epochs have values that are not finite"})
    EXPECT_NE(page.find(words), std::string::npos) << words;
  EXPECT_EQ(occurrences(page, "; best "), 1u);
}

TEST_F(Report, NumbersThatAreNotFinite) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  ReportData data = made_up_report(3, 9);
  data.epochs[3].test.elbo = nan;
  data.epochs[8].test.elbo = -inf;
  for (EpochMetrics& e : data.epochs) e.train.kl = nan, e.test.kl = nan;
  data.epochs.back().test.unit_kl = {nan, 1.5, inf};
  data.epochs[2].images_per_second = nan;
  data.means[7] = std::numeric_limits<float>::quiet_NaN();
  data.samples.pixels[3] = std::numeric_limits<float>::quiet_NaN();
  const std::string page = page_of(data);
  EXPECT_EQ(curve_points(page, "test"), 9u - 2 + 9);
  EXPECT_EQ(curve_points(page, "train"), 18u);
  EXPECT_NE(page.find("2 of 9 epochs have values that are not finite"), std::string::npos);
  EXPECT_NE(page.find("no finite value"), std::string::npos);
  EXPECT_NE(page.find("<dd>−∞ "), std::string::npos);  // the last test ELBO, as it is
  EXPECT_NE(page.find("best −163.00, epoch 8"), std::string::npos) << "a NaN is no best epoch";
  EXPECT_EQ(occurrences(page, "<circle class=\"mean "), 199u);

  for (EpochMetrics& e : data.epochs) e.test = e.train = {nan, nan, nan, nan, {nan, nan, nan}};
  data.means.assign(data.means.size(), std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(curve_points(page_of(data), "test"), 0u);
  EXPECT_EQ(occurrences(page_of(data), "<circle class=\"mean "), 0u);
  data = made_up_report(2, 2);
  data.means.assign(data.means.size(), std::numeric_limits<float>::infinity());
  EXPECT_EQ(occurrences(page_of(data), "<circle class=\"mean "), 0u);
}

// Steps between ticks below the grain of a double must not keep the axis from ending, nor give it the same label twice.
TEST_F(Report, CurvesThatHardlyDiffer) {
  const double big = 693147.1805599453;
  for (const auto& [value, by] : {std::pair{big, std::nextafter(big, 1e9) - big},
                                  {big, 1e-6},
                                  {big, 1e-3},
                                  {big, 0.01},
                                  {1.5, 1e-15},
                                  {1.5, 1e-9},
                                  {1.5, 2e-8},
                                  {0.0, 5e-324},
                                  {0.0, 1e-9},
                                  {-2e7, 0.1}}) {
    ReportData r = made_up_report(2, 2);
    for (EpochMetrics& e : r.epochs) e.train.reconstruction = e.test.reconstruction = value;
    r.epochs[1].test.reconstruction = value + by;
    const std::string panel = curve_panel(r.epochs, measures_of(r.epochs)[1]).svg();
    EXPECT_EQ(curve_points(panel, "test"), 2u);
    EXPECT_EQ(curve_points(panel, "train"), 2u);
    Names labels = between(panel, " text-anchor=\"end\">", "<");
    EXPECT_EQ(labels.back(), "epoch");
    labels.pop_back();
    EXPECT_GE(labels.size(), 2u) << value << " and " << by;
    EXPECT_LE(labels.size(), 13u) << value << " and " << by;
    EXPECT_EQ(std::set<std::string>(labels.begin(), labels.end()).size(), labels.size()) << value << " and " << by;
  }
}

TEST_F(Report, WordsAreEscapedEverywhere) {
  const std::string evil = "<script>alert('1')</script>&\"<b>";
  ReportData data = made_up_report(3, 2);
  data.name = data.command = data.device = data.machine = data.version = data.date = evil;
  data.spec_json = "{\"name\": \"" + evil + "\", broken \xff";
  data.class_names[2] = data.original_names[2] = evil;
  std::string page = page_of(data);  // counts the scripts, too
  EXPECT_EQ(page.find("<b>"), std::string::npos);
  EXPECT_EQ(page.find("alert('1')"), page.rfind("alert('1')")) << "only the JSON data may hold it as it is";
  EXPECT_GE(occurrences(page, "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;&lt;b&gt;"), 9u);
}

TEST_F(Report, SpecKeepsItsText) {
  const ReportData data = made_up_report(8, 1);
  const std::string page = page_of(data);
  std::string text = between(page, "<pre>", "</pre>").at(0);
  for (std::size_t tag = 0; (tag = text.find('<', tag)) != std::string::npos;)
    text.erase(tag, text.find('>', tag) + 1 - tag);
  for (std::size_t at = 0; (at = text.find("&quot;", at)) != std::string::npos;) text.replace(at, 6, 1, '"');
  EXPECT_EQ(text, data.spec_json);
  for (const char* piece : {"<span class=\"key\">&quot;epochs&quot;</span>", "<span class=\"number\">-1.5e-4</span>",
                            "<span class=\"string\">&quot;made-up&quot;</span>", "<span class=\"word\">true</span>"})
    EXPECT_NE(page.find(piece), std::string::npos) << piece;
}

TEST_F(Report, TheObjectiveIsSaid) {
  ReportData data = made_up_report(8, 1);
  data.objective = "reconstruction + 2 · KL";
  EXPECT_NE(page_of(data).find("<td>reconstruction + 2 · KL</td>"), std::string::npos);
}

TEST_F(Report, DataThatContradictThemselvesAreRefused) {
  const auto refused = [&](auto&& spoil, const std::string& words) {
    ReportData data = made_up_report(2, 1);
    spoil(data);
    try {
      write_report(data, folder_);
      ADD_FAILURE() << "accepted: " << words;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(words), std::string::npos) << e.what();
    }
    EXPECT_FALSE(fs::exists(folder_)) << "nothing may be written";
  };
  refused([](ReportData& d) { d.samples.pixels.pop_back(); }, "samples: 2999 pixels given");
  refused([](ReportData& d) { d.originals.channels = 2; }, "originals");
  refused([](ReportData& d) { d.reconstructions = made_up_images(9); }, "10 originals but 9 reconstructions");
  refused([](ReportData& d) { d.labels.pop_back(); }, "199 labels for 200 posterior means");
  refused([](ReportData& d) { d.means.pop_back(); }, "399 numbers");
  refused([](ReportData& d) { d.manifold_side = 5; }, "5 images on a side");
  refused([](ReportData& d) { d.original_names.pop_back(); }, "9 names for 10 originals");
}

TEST_F(Report, FailuresNameTheFileAndKeepTheOldOne) {
  const std::string before = page_of(made_up_report(2, 1));

  // No file may grow beyond a limit, which is what a full disk looks like.
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  rlimit small = limit;
  small.rlim_cur = 60000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string message;
  try {
    write_report(made_up_report(8, 2000), folder_);
  } catch (const Error& e) {
    message = e.what();
  }
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  EXPECT_NE(message.find("File too large"), std::string::npos) << message;
  EXPECT_EQ(message.find((folder_ / "report.html").string()), 0u) << message;
  EXPECT_EQ(read(folder_ / "report.html"), before);
  for (const auto& entry : fs::recursive_directory_iterator(folder_)) EXPECT_NE(entry.path().extension(), ".elbo-tmp");

  try {
    write_report(made_up_report(2, 1), folder_ / "report.html");  // a folder below a file
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("report.html: this folder cannot be made"), std::string::npos) << e.what();
  }
}

TEST(ContactSheet, PlacesAndColoursPixels) {
  ImageStrip strip{3, 1, 2, 1, {0, 1, 0.5f, -3, 7, std::numeric_limits<float>::quiet_NaN()}};
  const Raster grey = contact_sheet(strip, 0, 3, 2, 1);
  EXPECT_EQ(grey.width, 5);
  EXPECT_EQ(grey.height, 3);
  EXPECT_EQ(grey.argb, (std::vector<std::uint32_t>{0xff000000, 0xffffffff, 0, 0xff808080, 0xff000000,  //
                                                   0, 0, 0, 0, 0,                                      //
                                                   0xffffffff, 0xffd00030, 0, 0, 0}));
  strip = {1, 1, 2, 3, {1, 0.5f, 0, 0, 0, 1}};
  EXPECT_EQ(contact_sheet(strip, 0, 1, 1, 0).argb, (std::vector<std::uint32_t>{0xffff8000, 0xff0000ff}));
}

TEST(Raster, SurvivesAPng) {
  const Raster raster{3, 2, {0xffff8000, 0xff0000ff, 0, 0xff123456, 0xffffffff, 0xff000000}};
  const Raster read = read_png(raster.png());
  EXPECT_EQ(read.width, 3);
  EXPECT_EQ(read.height, 2);
  EXPECT_EQ(read.argb, raster.argb);
}

Picture one_of_each_shape() {
  Picture picture(60, 40, "One of \"each\"");
  picture.attribute("data-x", "<1>");
  picture.line({2, 5}, {12, 5}, {Ink::text, 2});
  picture.line({2, 10}, {12, 10}, {Ink::muted, 2, true});
  picture.polyline({{2, 15}, {6, 15}, {6, 19}}, {Ink::train, 2}, "curve");
  picture.disc({20, 8}, 5, Ink::test, 0.5, "mean c1");
  picture.ring({20, 22}, 6, {Ink::muted, 2});
  picture.box({30, 2}, 8, 5, Ink::inactive, "bar");
  picture.text({40, 38}, "a & b", {14, Ink::class9, Anchor::end}, "name");
  picture.text({58, 38}, "z", {14, Ink::class0, Anchor::start, true, true});
  picture.image({30, 10}, 3, {2, 1, {0xffff8000, 0xff0000ff}});
  return picture;
}

TEST(Picture, PngHasEachShapeInItsPlace) {
  Picture two(120, 40, "Twice, side by side");
  two.part({0, 0}, one_of_each_shape());
  two.part({60, 0}, one_of_each_shape());
  const Raster png = read_png(two.png());
  EXPECT_EQ(png.width, 240);
  EXPECT_EQ(png.height, 80);
  const auto opaque = [](Ink ink) { return 0xff000000 | colour(ink).light; };
  for (const double left : {0, 60}) {
    const auto at = [&](double x, double y) { return colour_at(png, left + x, y); };
    EXPECT_EQ(at(1, 1), 0xffffffff);
    EXPECT_EQ(at(7, 5), opaque(Ink::text));
    EXPECT_EQ(at(4, 10), opaque(Ink::muted));
    EXPECT_EQ(at(7.5, 10), 0xffffffff) << "between dashes";
    EXPECT_EQ(at(10, 10), opaque(Ink::muted));
    EXPECT_EQ(at(4, 15), opaque(Ink::train));
    EXPECT_EQ(at(6, 18), opaque(Ink::train));
    EXPECT_EQ(at(4, 18), 0xffffffff) << "a line has no inside";
    for (const int channel : {0, 8, 16})  // half of the ink, half of the paper
      EXPECT_NEAR(at(20, 8) >> channel & 255, ((colour(Ink::test).light >> channel & 255) + 255) / 2.0, 1);
    EXPECT_EQ(at(20, 14), 0xffffffff);
    EXPECT_EQ(at(26, 22), opaque(Ink::muted));
    EXPECT_EQ(at(20, 22), 0xffffffff);
    EXPECT_EQ(at(31, 3), opaque(Ink::inactive));
    EXPECT_EQ(at(37, 6), opaque(Ink::inactive));
    EXPECT_EQ(at(31, 11), 0xffff8000);
    EXPECT_EQ(at(35, 12), 0xff0000ff);
    const auto inked = [&](double from, double to, Ink ink) {
      for (double x = from; x < to; x += 0.5)
        for (double y = 24; y < 40; y += 0.5)
          if (at(x, y) == opaque(ink)) return true;
      return false;
    };
    EXPECT_TRUE(inked(1, 12, Ink::class9) && inked(30, 40, Ink::class9)) << "words that end at 40";
    EXPECT_FALSE(inked(40, 60, Ink::class9));
    EXPECT_TRUE(inked(48, 58, Ink::class0)) << "a letter to the left of its line, since it is read upwards";
  }
}

TEST(Picture, SvgHasAnElementAShape) {
  Picture picture(120, 40, "Twice");
  picture.part({60, 0}, one_of_each_shape());
  std::string svg =
      "<svg viewBox='0 0 120 40' width='120' height='40' stroke-linejoin='round' role='img' aria-label='Twice'>\n"
      "<g transform='translate(60.0 0.0)'>\n"
      "<polyline fill='none' stroke='var(--text)' stroke-width='2' points='2.0,5.0 12.0,5.0 '/>\n"
      "<polyline fill='none' stroke='var(--muted)' stroke-width='2' stroke-dasharray='4 3' "
      "points='2.0,10.0 12.0,10.0 '/>\n"
      "<polyline class='curve' fill='none' stroke='var(--train)' stroke-width='2' "
      "points='2.0,15.0 6.0,15.0 6.0,19.0 '/>\n"
      "<circle class='mean c1' cx='20.0' cy='8.0' r='5' fill='var(--test)' fill-opacity='0.50'/>\n"
      "<circle cx='20.0' cy='22.0' r='6.0' fill='none' stroke='var(--muted)' stroke-width='2'/>\n"
      "<rect class='bar' x='30.0' y='2.0' width='8.0' height='5.0' fill='var(--inactive)'/>\n"
      "<text class='name' x='40.0' y='38.0' font-size='14' fill='var(--class9)' text-anchor='end'>a &amp; b</text>\n"
      "<text x='58.0' y='38.0' font-size='14' fill='var(--class0)' text-anchor='start' "
      "transform='rotate(-90 58.0 38.0)' stroke='var(--paper)' stroke-width='3' paint-order='stroke'>z</text>\n"
      "<image x='30.0' y='10.0' width='6.0' height='3.0' preserveAspectRatio='none' image-rendering='pixelated' "
      "href='" +
      data_uri(Raster{2, 1, {0xffff8000, 0xff0000ff}}.png()) + "'/>\n</g>\n</svg>\n";
  std::ranges::replace(svg, '\'', '"');
  EXPECT_EQ(picture.svg(), svg);
  EXPECT_NE(one_of_each_shape().svg().find(" aria-label=\"One of &quot;each&quot;\" data-x=\"&lt;1&gt;\">"),
            std::string::npos);
}

TEST(DataUri, IsBase64) {
  const std::string prefix = "data:image/png;base64,";
  EXPECT_EQ(data_uri(""), prefix);
  EXPECT_EQ(data_uri("f"), prefix + "Zg==");
  EXPECT_EQ(data_uri("fo"), prefix + "Zm8=");
  EXPECT_EQ(data_uri("foo"), prefix + "Zm9v");
  EXPECT_EQ(data_uri("\xff\xfe\xfd\x01"), prefix + "//79AQ==");
}

TEST(Number, IsWrittenForPeople) {
  EXPECT_EQ(number(-238.125, 1), "−238.1");
  EXPECT_EQ(number(-0.001, 2), "0.00");
  EXPECT_EQ(number(std::nan(""), 2), "NaN");
  EXPECT_EQ(number(-INFINITY, 2), "−∞");
}

TEST(Number, OfALargeImageIsShort) {
  EXPECT_EQ(short_number(-99999.994, 2), "−99999.99");
  EXPECT_EQ(short_number(-11960605.07, 2), "−11960605");
  ReportData r = made_up_report(2, 2);
  for (EpochMetrics& e : r.epochs) e.train.elbo = e.test.elbo = -1.2e7 + 1e5 * static_cast<double>(e.epoch);
  const std::string svg = curve_panel(r.epochs, measures_of(r.epochs)[0]).svg();
  EXPECT_NE(svg.find(">−11.90M<"), std::string::npos) << svg;
  EXPECT_NE(svg.find(">test −11800000<"), std::string::npos) << svg;
}

TEST(View, LooksFromTheFront) {
  const View front{0, 0};
  const Seen right = look(front, {1, 0, 0}), up = look(front, {0, 1, 0}), near = look(front, {0, 0, 1});
  EXPECT_GT(right.x, 0.5);
  EXPECT_DOUBLE_EQ(right.y, 0);
  EXPECT_GT(up.y, 0.5);
  EXPECT_DOUBLE_EQ(near.depth, 1);
  EXPECT_GT(look(front, {1, 0, 1}).x, look(front, {1, 0, -1}).x) << "what is near is larger";
  for (const double yaw : {0.0, 0.8, 2.2})
    for (const double corner : {-1.0, 1.0}) {  // the whole cube stays in the picture
      const Seen s = look({yaw, View{}.pitch}, {corner, 1, -corner});
      EXPECT_LT(std::max(std::abs(s.x), std::abs(s.y)), 1);
    }
}

TEST(InverseNormalCdf, MatchesTables) {
  EXPECT_EQ(math::inverse_normal_cdf(0.5), 0);
  EXPECT_NEAR(math::inverse_normal_cdf(0.975), 1.959963984540054, 1e-15);
  EXPECT_NEAR(math::inverse_normal_cdf(0.025), -1.959963984540054, 1e-15);
  EXPECT_NEAR(math::inverse_normal_cdf(1e-10), -6.361340902404056, 1e-14);
  EXPECT_NEAR(math::inverse_normal_cdf(1e-300), -37.0471, 1e-4);
  for (double p = 0.0005; p < 1; p += 0.0005) EXPECT_NEAR(math::normal_cdf(math::inverse_normal_cdf(p)), p, 4e-16);
}

// ---- collect_pictures ----------------------------------------------------------------------------------------

Dataset made_up_set(bool labels, int rare = 35) {
  Dataset data;
  data.name = "made-up";
  data.test = {90, 3, 2, 1, {}, {}};
  for (int i = 0; i < 90 * 6; ++i) data.test.pixels.push_back(static_cast<std::uint8_t>(i * 37 % 251));
  if (labels)
    for (int i = 0; i < 90; ++i) data.test.labels.push_back(static_cast<std::uint8_t>(i < rare ? 2 : 0));
  data.train = data.test;
  return data;
}

ReportData collect(std::int64_t latent, const Dataset& data, Binarize binarize = Binarize::none) {
  Spec spec;
  spec.data.binarize = binarize;
  spec.seed = 7;
  spec.model.latent = latent;
  spec.model.encoder = spec.model.decoder = {{4, Activation::tanh}};
  const OpenedDevice device = open_device("cpu");
  Vae vae(*device.backend, spec, data.test.image_shape());
  return collect_pictures(vae, spec, data);
}

TEST(CollectPictures, EquallyManyOfEachClass) {
  const Dataset data = made_up_set(true);  // 35 of class 2, 55 of class 0
  const ReportData r = collect(2, data);
  EXPECT_EQ(r.labels.size(), 70u);
  EXPECT_EQ(r.means.size(), 140u);
  for (const int label : {0, 2}) EXPECT_EQ(std::count(r.labels.begin(), r.labels.end(), label), 35);
  ASSERT_EQ(r.originals.count, 2);  // one of each class, in order: images 35 and 0
  EXPECT_EQ(r.original_names, (Names{"0", "2"}));
  EXPECT_FLOAT_EQ(r.originals.pixels[0], static_cast<float>(data.test.image(35)[0]) / 255);
  EXPECT_FLOAT_EQ(r.originals.pixels[6], static_cast<float>(data.test.image(0)[0]) / 255);
  EXPECT_EQ(r.reconstructions.count, 2);
  EXPECT_EQ(r.samples.count, 100);
  EXPECT_EQ(r.manifold.count, r.manifold_side * r.manifold_side);
}

TEST_F(Report, OfWhatWasCollected) {
  const std::string page = page_of(collect(2, made_up_set(true)));
  EXPECT_EQ(figures(), (Names{"manifold.png", "reconstructions.png", "samples.png", "scatter.png"}));
  EXPECT_EQ(occurrences(page, "<circle class=\"mean c0\""), 35u);
  EXPECT_EQ(occurrences(page, "<circle class=\"mean c2\""), 35u);
}

TEST(CollectPictures, ARareClassLeavesTheOthersThirty) {
  const ReportData r = collect(2, made_up_set(true, 1));
  EXPECT_EQ(std::count(r.labels.begin(), r.labels.end(), 2), 1);
  EXPECT_EQ(std::count(r.labels.begin(), r.labels.end(), 0), 30);
}

TEST(CollectPictures, OriginalsAreAsTheModelMetThem) {
  const Dataset data = made_up_set(false);
  const ReportData grey = collect(2, data), fixed = collect(2, data, Binarize::threshold),
                   drawn = collect(2, data, Binarize::dynamic);
  EXPECT_EQ(drawn.originals.pixels, grey.originals.pixels);
  EXPECT_NE(fixed.means, grey.means) << "the encoder met them so, too";
  ASSERT_EQ(fixed.originals.pixels.size(), grey.originals.pixels.size());
  for (std::size_t i = 0; i < grey.originals.pixels.size(); ++i)
    EXPECT_EQ(fixed.originals.pixels[i], grey.originals.pixels[i] >= 128 / 255.0f ? 1 : 0);
}

TEST(CollectPictures, LargeImagesAreShrunk) {
  Dataset data;
  data.test = {3, 700, 3, 1, {}, {}};
  for (int i = 0; i < 3 * 700 * 3; ++i) data.test.pixels.push_back(static_cast<std::uint8_t>(i % 251));
  data.train = data.test;
  const ReportData r = collect(2, data);
  EXPECT_EQ(r.originals.height, 234);  // a third
  EXPECT_EQ(r.originals.width, 1);
  double first = 0;
  for (int i = 0; i < 9; ++i) first += data.test.pixels[static_cast<std::size_t>(i)] / 255.0 / 9;
  EXPECT_NEAR(r.originals.pixels[0], first, 1e-6);
  EXPECT_NEAR(
      r.originals.pixels[233],
      data.test.pixels[2097] / 255.0 / 3 + data.test.pixels[2098] / 255.0 / 3 + data.test.pixels[2099] / 255.0 / 3,
      1e-6)
      << "a row that has no others";
  EXPECT_EQ(r.reconstructions.height, 234);
  EXPECT_EQ(r.samples.height, 117);
  EXPECT_EQ(r.manifold.height, 64);
  EXPECT_EQ(r.manifold.pixels.size(), 400u * 64u);
}

// 16.8 million pixels are 64 MiB of floats: 42 such images are decoded in seconds, 510 in minutes.
TEST(CollectPictures, FewerOfVeryLargeImages) {
  const auto counts = [](std::int64_t side) {
    const PictureCounts c = picture_counts(side * side);
    return std::vector<std::int64_t>{c.originals, c.samples, c.manifold_side};
  };
  EXPECT_EQ(counts(28), (std::vector<std::int64_t>{10, 100, 20}));
  EXPECT_EQ(counts(512), (std::vector<std::int64_t>{10, 100, 20}));
  EXPECT_EQ(counts(1024), (std::vector<std::int64_t>{10, 100, 16}));
  EXPECT_EQ(counts(4096), (std::vector<std::int64_t>{10, 16, 4}));
  EXPECT_EQ(counts(1 << 15), (std::vector<std::int64_t>{1, 1, 1}));
}

TEST(CollectPictures, TellsHowMuchIsDone) {
  const Dataset data = made_up_set(false);
  Spec spec;
  spec.model.latent = 2;
  const OpenedDevice device = open_device("cpu");
  Vae vae(*device.backend, spec, data.test.image_shape());
  std::vector<double> told;
  collect_pictures(vae, spec, data, [&](double done) { told.push_back(done); });
  EXPECT_TRUE(std::ranges::is_sorted(told));
  EXPECT_GT(told.front(), 0);
  EXPECT_EQ(told.back(), 1);
  EXPECT_EQ(told.size(), 2 * 10u + 100 + 400 + 90);
}

TEST(CollectPictures, WithoutLabelsEvenlySpaced) {
  const Dataset data = made_up_set(false);
  const ReportData r = collect(3, data);
  EXPECT_EQ(r.originals.count, 10);
  EXPECT_FLOAT_EQ(r.originals.pixels[6], static_cast<float>(data.test.image(9)[0]) / 255);
  EXPECT_EQ(r.means.size(), 270u);
  EXPECT_TRUE(r.labels.empty());
  EXPECT_EQ(r.manifold_side, 0);
  EXPECT_TRUE(collect(5, data).means.empty());
}

TEST(CollectPictures, ManifoldRunsRightAndUp) {
  Dataset data = made_up_set(false);
  Spec spec;
  spec.model.latent = 2;
  spec.model.decoder = {};  // pixels = sigmoid(W z + b)
  const OpenedDevice device = open_device("cpu");
  Vae vae(*device.backend, spec, {2, 3, 1});
  const auto parameter = [&](const char* name) {
    const auto p = std::ranges::find(vae.parameters.layout(), name, &Parameter::name);
    return vae.parameters.view(vae.parameters.memory(), *p);
  };
  std::vector<float> w(12, 0.0f), b(6, 0.0f);
  w[0] = 1;  // pixel 0 shows z1
  w[3] = 1;  // pixel 1 shows z2
  device.backend->upload(parameter("decoder.0.weight"), w.data());
  device.backend->upload(parameter("decoder.0.bias"), b.data());
  const ReportData r = collect_pictures(vae, spec, data);
  const std::int64_t side = r.manifold_side;
  const auto pixel = [&](std::int64_t row, std::int64_t column, int k) {
    return r.manifold.pixels[static_cast<std::size_t>((row * side + column) * 6 + k)];
  };
  EXPECT_LT(pixel(0, 0, 0), pixel(0, side - 1, 0));
  EXPECT_GT(pixel(0, 0, 1), pixel(side - 1, 0, 1));
  EXPECT_NEAR(pixel(0, 0, 0), 1 / (1 + std::exp(1.959963984540054)), 1e-5);  // quantile 0.5 / 20
}

}  // namespace
}  // namespace elbo

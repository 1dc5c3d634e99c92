#include "host/report/picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace elbo {
namespace {

// The class colours are ten hues moved until no two are closer than 0.09 in OKLab, with normal vision and
// with protan, deutan and tritan vision (Machado et al. 2009), each readable on white and on the dark paper.
constexpr std::array<Colour, static_cast<std::size_t>(Ink::class9) + 1> colours{{
    {"paper", 0xffffff, 0x15181b},
    {"text", 0x1c2226, 0xe6e8ea},
    {"muted", 0x5b646c, 0x9ea7af},
    {"rule", 0xe2e6e9, 0x2c3238},
    {"train", 0x939ca5, 0x88929b},
    {"test", 0x0b63ad, 0x62b2f5},
    {"inactive", 0xc3cad0, 0x454e57},
    {"class0", 0x2b69b3, 0x2b69b3},
    {"class1", 0xe87806, 0xe87806},
    {"class2", 0xaa2b0b, 0xaa2b0b},
    {"class3", 0x35b272, 0x35b272},
    {"class4", 0x966fea, 0x966fea},
    {"class5", 0x937352, 0x937352},
    {"class6", 0xfe97b4, 0xfe97b4},
    {"class7", 0xbec336, 0xbec336},
    {"class8", 0x4a5f57, 0x4a5f57},
    {"class9", 0x4ec5f4, 0x4ec5f4},
}};

std::uint32_t argb(const float* pixel, std::int64_t channels) {
  std::uint32_t value = 0xff;
  for (int c = 0; c < 3; ++c) {
    const float v = pixel[channels == 3 ? c : 0];
    if (std::isnan(v)) return 0xffd00030;
    value = value << 8 | static_cast<std::uint32_t>(std::lround(std::clamp(v, 0.0f, 1.0f) * 255.0f));
  }
  return value;
}

}  // namespace

Ink class_ink(std::int64_t label) { return static_cast<Ink>(static_cast<std::int64_t>(Ink::class0) + label % 10); }

const Colour& colour(Ink ink) { return colours[static_cast<std::size_t>(ink)]; }

std::string css_colours(bool dark) {
  std::string css;
  for (const Colour& c : colours) css += fmt::format("--{}:#{:06x};", c.name, dark ? c.dark : c.light);
  return css;
}

Raster contact_sheet(const ImageStrip& images, std::int64_t first, std::int64_t count, std::int64_t columns, int gap) {
  const std::int64_t rows = (count + columns - 1) / columns, h = images.height, w = images.width;
  Raster sheet;
  sheet.width = static_cast<int>(columns * (w + gap) - gap);
  sheet.height = static_cast<int>(rows * (h + gap) - gap);
  sheet.argb.assign(static_cast<std::size_t>(sheet.width) * sheet.height, 0);
  for (std::int64_t i = 0; i < count; ++i) {
    const float* pixel = images.pixels.data() + (first + i) * h * w * images.channels;
    const std::int64_t top = i / columns * (h + gap), left = i % columns * (w + gap);
    for (std::int64_t y = 0; y < h; ++y)
      for (std::int64_t x = 0; x < w; ++x, pixel += images.channels)
        sheet.argb[(top + y) * sheet.width + left + x] = argb(pixel, images.channels);
  }
  return sheet;
}

void Picture::line(Point from, Point to, Stroke stroke) { polyline({from, to}, stroke); }

void Picture::polyline(std::vector<Point> points, Stroke stroke, std::string mark) {
  shapes_.push_back({Polyline{std::move(points), stroke}, std::move(mark)});
}

void Picture::disc(Point centre, double radius, Ink ink, double opacity, std::string mark) {
  shapes_.push_back({Disc{centre, radius, ink, opacity}, std::move(mark)});
}

void Picture::ring(Point centre, double radius, Stroke stroke) {
  shapes_.push_back({Ring{centre, radius, stroke}, {}});
}

void Picture::box(Point corner, double width, double height, Ink ink, std::string mark) {
  shapes_.push_back({Box{corner, width, height, ink}, std::move(mark)});
}

void Picture::text(Point baseline, std::string words, TextStyle style, std::string mark) {
  shapes_.push_back({Text{baseline, std::move(words), style}, std::move(mark)});
}

void Picture::image(Point corner, double scale, Raster raster) {
  shapes_.push_back({Image{corner, scale, std::move(raster)}, {}});
}

void Picture::part(Point corner, const Picture& other) { shapes_.push_back({Part{corner, other.shapes_}, {}}); }

}  // namespace elbo

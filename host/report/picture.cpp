#include "host/report/picture.h"

#include <cairo-ft.h>
#include <cairo.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iterator>

#include "elbo/error.h"

namespace elbo {
namespace {

struct Colour {
  const char* name;
  std::uint32_t light, dark;
};

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

const Colour& colour(Ink ink) { return colours[static_cast<std::size_t>(ink)]; }

constexpr double pixels_per_unit = 2;

// DejaVu Sans out of a file, so that no font configuration is needed; null where there is none.
cairo_font_face_t* load_font() {
  std::vector<std::filesystem::path> places;
  if (const char* given = std::getenv("ELBO_FONT")) places.emplace_back(given);
  std::error_code ignored;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  places.push_back(program.parent_path() / "../share/elbo/DejaVuSans.ttf");
  for (const char* folder : {"truetype/dejavu", "dejavu", "TTF", "dejavu-sans-fonts"})
    places.push_back(std::filesystem::path("/usr/share/fonts") / folder / "DejaVuSans.ttf");

  static FT_Library library = nullptr;  // lives as long as the font, which is never freed
  static FT_Face face = nullptr;
  if (FT_Init_FreeType(&library) == 0)
    for (const auto& place : places)
      if (FT_New_Face(library, place.c_str(), 0, &face) == 0)
        return cairo_ft_font_face_create_for_ft_face(face, FT_LOAD_NO_HINTING);
  std::fputs(
      "warning: DejaVuSans.ttf was not found, so the PNG figures have no text; install fonts-dejavu-core or name the "
      "file in ELBO_FONT\n",
      stderr);
  return nullptr;
}

cairo_font_face_t* font() {
  static cairo_font_face_t* const face = load_font();
  return face;
}

std::string png_of(cairo_surface_t* surface) {
  std::string bytes;
  const auto append = [](void* to, const unsigned char* data, unsigned int size) {
    static_cast<std::string*>(to)->append(reinterpret_cast<const char*>(data), size);
    return CAIRO_STATUS_SUCCESS;
  };
  const cairo_status_t status = cairo_surface_write_to_png_stream(surface, append, &bytes);
  require(status == CAIRO_STATUS_SUCCESS, "cannot make a PNG: ", cairo_status_to_string(status));
  return bytes;
}

using Surface = std::unique_ptr<cairo_surface_t, decltype(&cairo_surface_destroy)>;

Surface surface_of(const Raster& raster) {
  Surface surface(cairo_image_surface_create(CAIRO_FORMAT_ARGB32, raster.width, raster.height), cairo_surface_destroy);
  require(cairo_surface_status(surface.get()) == CAIRO_STATUS_SUCCESS, "cannot make a picture of ", raster.width, " x ",
          raster.height, " pixels: ", cairo_status_to_string(cairo_surface_status(surface.get())));
  unsigned char* const bytes = cairo_image_surface_get_data(surface.get());
  const int stride = cairo_image_surface_get_stride(surface.get());
  for (int y = 0; y < raster.height; ++y)
    std::copy_n(raster.argb.data() + std::ptrdiff_t{y} * raster.width, raster.width,
                reinterpret_cast<std::uint32_t*>(bytes + std::ptrdiff_t{y} * stride));
  cairo_surface_mark_dirty(surface.get());
  return surface;
}

std::string class_attribute(std::string_view mark) { return mark.empty() ? "" : fmt::format(" class=\"{}\"", mark); }

std::string stroke_attributes(const Stroke& s) {
  return fmt::format(" fill=\"none\" stroke=\"var(--{})\" stroke-width=\"{:.4g}\"{}", colour(s.ink).name, s.width,
                     s.dashed ? " stroke-dasharray=\"4 3\"" : "");
}

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

std::string css_colours(bool dark) {
  std::string css;
  for (const Colour& c : colours) css += fmt::format("--{}:#{:06x};", c.name, dark ? c.dark : c.light);
  return css;
}

std::string Raster::png() const { return png_of(surface_of(*this).get()); }

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

Picture::Picture(double width, double height, std::string description)
    : width_(width), height_(height), description_(std::move(description)) {
  const Surface surface(cairo_image_surface_create(CAIRO_FORMAT_RGB24, static_cast<int>(width * pixels_per_unit),
                                                   static_cast<int>(height * pixels_per_unit)),
                        cairo_surface_destroy);
  require(cairo_surface_status(surface.get()) == CAIRO_STATUS_SUCCESS, "cannot make a picture of ", width, " x ",
          height, ": ", cairo_status_to_string(cairo_surface_status(surface.get())));
  cairo_.reset(cairo_create(surface.get()), cairo_destroy);
  cairo_scale(cairo_.get(), pixels_per_unit, pixels_per_unit);
  cairo_set_line_join(cairo_.get(), CAIRO_LINE_JOIN_ROUND);
  if (font() != nullptr) cairo_set_font_face(cairo_.get(), font());
  paint(Ink::paper);
  cairo_paint(cairo_.get());
}

void Picture::attribute(std::string_view name, std::string_view value) {
  attributes_ += fmt::format(" {}=\"{}\"", name, escape_html(value));
}

void Picture::line(Point from, Point to, Stroke stroke) {
  body_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"{}/>\n", from.x, from.y, to.x,
                       to.y, stroke_attributes(stroke));
  cairo_move_to(cairo_.get(), from.x, from.y);
  cairo_line_to(cairo_.get(), to.x, to.y);
  paint(stroke);
  cairo_stroke(cairo_.get());
}

void Picture::polyline(std::span<const Point> points, Stroke stroke, std::string_view mark) {
  body_ += fmt::format("<polyline{}{} stroke-linejoin=\"round\" points=\"", class_attribute(mark),
                       stroke_attributes(stroke));
  cairo_new_path(cairo_.get());
  for (const Point& p : points) {
    fmt::format_to(std::back_inserter(body_), "{:.1f},{:.1f} ", p.x, p.y);
    cairo_line_to(cairo_.get(), p.x, p.y);
  }
  body_ += "\"/>\n";
  paint(stroke);
  cairo_stroke(cairo_.get());
}

void Picture::disc(Point centre, double radius, Ink ink, double opacity, std::string_view mark) {
  body_ += fmt::format("<circle{} cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.3g}\" fill=\"var(--{})\"{}/>\n",
                       class_attribute(mark), centre.x, centre.y, radius, colour(ink).name,
                       opacity < 1 ? fmt::format(" fill-opacity=\"{:.2f}\"", opacity) : "");
  cairo_new_path(cairo_.get());
  cairo_arc(cairo_.get(), centre.x, centre.y, radius, 0, 2 * M_PI);
  paint(ink, opacity);
  cairo_fill(cairo_.get());
}

void Picture::ring(Point centre, double radius, Stroke stroke) {
  body_ += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\"{}/>\n", centre.x, centre.y, radius,
                       stroke_attributes(stroke));
  cairo_new_path(cairo_.get());
  cairo_arc(cairo_.get(), centre.x, centre.y, radius, 0, 2 * M_PI);
  paint(stroke);
  cairo_stroke(cairo_.get());
}

void Picture::box(Point corner, double width, double height, Ink ink, std::string_view mark) {
  body_ += fmt::format("<rect{} x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"var(--{})\"/>\n",
                       class_attribute(mark), corner.x, corner.y, width, height, colour(ink).name);
  cairo_rectangle(cairo_.get(), corner.x, corner.y, width, height);
  paint(ink);
  cairo_fill(cairo_.get());
}

void Picture::text(Point at, std::string_view words, TextStyle style, std::string_view mark) {
  static constexpr const char* anchors[] = {"start", "middle", "end"};
  body_ += fmt::format(
      "<text{} x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{:.4g}\" fill=\"var(--{})\" text-anchor=\"{}\"{}{}>{}</text>\n",
      class_attribute(mark), at.x, at.y, style.size, colour(style.ink).name, anchors[static_cast<int>(style.anchor)],
      style.upwards ? fmt::format(" transform=\"rotate(-90 {:.1f} {:.1f})\"", at.x, at.y) : "",
      style.halo ? " stroke=\"var(--paper)\" stroke-width=\"3\" stroke-linejoin=\"round\" paint-order=\"stroke\"" : "",
      escape_html(words));

  if (font() == nullptr) return;
  cairo_t* const c = cairo_.get();
  const std::string copy(words);
  cairo_save(c);
  cairo_set_font_size(c, style.size * 0.94);  // DejaVu is wider than the fonts that pages are set in
  cairo_text_extents_t size;
  cairo_text_extents(c, copy.c_str(), &size);
  cairo_translate(c, at.x, at.y);
  if (style.upwards) cairo_rotate(c, -M_PI / 2);
  cairo_move_to(c, -size.x_advance * static_cast<int>(style.anchor) / 2, 0);
  if (style.halo) {
    cairo_text_path(c, copy.c_str());
    paint(Stroke{Ink::paper, 3});
    cairo_stroke_preserve(c);
    paint(style.ink);
    cairo_fill(c);
  } else {
    paint(style.ink);
    cairo_show_text(c, copy.c_str());
  }
  cairo_restore(c);
}

void Picture::image(Point corner, double scale, const Raster& raster) {
  body_ += fmt::format(
      "<image x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" preserveAspectRatio=\"none\" "
      "image-rendering=\"pixelated\" href=\"{}\"/>\n",
      corner.x, corner.y, raster.width * scale, raster.height * scale, data_uri(raster.png()));
  const Surface surface = surface_of(raster);
  cairo_save(cairo_.get());
  cairo_translate(cairo_.get(), corner.x, corner.y);
  cairo_scale(cairo_.get(), scale, scale);
  cairo_set_source_surface(cairo_.get(), surface.get(), 0, 0);
  cairo_pattern_set_filter(cairo_get_source(cairo_.get()), CAIRO_FILTER_NEAREST);
  cairo_paint(cairo_.get());
  cairo_restore(cairo_.get());
}

std::string Picture::svg() const {
  return fmt::format(
      "<svg viewBox=\"0 0 {0:.4g} {1:.4g}\" width=\"{0:.4g}\" height=\"{1:.4g}\" role=\"img\" aria-label=\"{2}\"{3}>\n"
      "{4}</svg>\n",
      width_, height_, escape_html(description_), attributes_, body_);
}

std::string Picture::png() const {
  cairo_surface_flush(cairo_get_target(cairo_.get()));
  return png_of(cairo_get_target(cairo_.get()));
}

void Picture::paint(Ink ink, double opacity) {
  const std::uint32_t c = colour(ink).light;
  cairo_set_source_rgba(cairo_.get(), (c >> 16 & 255) / 255.0, (c >> 8 & 255) / 255.0, (c & 255) / 255.0, opacity);
}

void Picture::paint(const Stroke& stroke) {
  static constexpr double dashes[] = {4, 3};
  paint(stroke.ink);
  cairo_set_line_width(cairo_.get(), stroke.width);
  cairo_set_dash(cairo_.get(), dashes, stroke.dashed ? 2 : 0, 0);
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  return out;
}

std::string data_uri(const std::string& png) {
  static constexpr char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string uri = "data:image/png;base64,";
  for (std::size_t i = 0; i < png.size(); i += 3) {
    std::uint32_t three = 0;
    for (std::size_t j = i; j < i + 3; ++j)
      three = three << 8 | (j < png.size() ? static_cast<std::uint8_t>(png[j]) : 0);
    for (std::size_t j = 0; j < 4; ++j) uri += i + j > png.size() ? '=' : digits[three >> (18 - 6 * j) & 63];
  }
  return uri;
}

}  // namespace elbo

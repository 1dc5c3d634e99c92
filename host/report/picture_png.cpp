// Pictures and rasters as PNG, drawn by cairo.
#include "host/report/picture.h"

#include <cairo-ft.h>
#include <cairo.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "elbo/error.h"

namespace elbo {
namespace {

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

// Letters stand where the font wants them, as on the page, and not at the next whole pixel.
void set_font(cairo_t* c) {
  const std::unique_ptr<cairo_font_options_t, decltype(&cairo_font_options_destroy)> options(
      cairo_font_options_create(), cairo_font_options_destroy);
  cairo_font_options_set_hint_metrics(options.get(), CAIRO_HINT_METRICS_OFF);
  cairo_set_font_options(c, options.get());
  if (font() != nullptr) cairo_set_font_face(c, font());
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

Surface new_surface(cairo_format_t format, int width, int height) {
  Surface surface(cairo_image_surface_create(format, width, height), cairo_surface_destroy);
  const cairo_status_t status = cairo_surface_status(surface.get());
  require(status == CAIRO_STATUS_SUCCESS, "cannot make a picture of ", width, " x ", height,
          " pixels: ", cairo_status_to_string(status));
  return surface;
}

Surface surface_of(const Raster& raster) {
  Surface surface = new_surface(CAIRO_FORMAT_ARGB32, raster.width, raster.height);
  unsigned char* const bytes = cairo_image_surface_get_data(surface.get());
  const int stride = cairo_image_surface_get_stride(surface.get());
  for (int y = 0; y < raster.height; ++y)
    std::copy_n(raster.argb.data() + std::ptrdiff_t{y} * raster.width, raster.width,
                reinterpret_cast<std::uint32_t*>(bytes + std::ptrdiff_t{y} * stride));
  cairo_surface_mark_dirty(surface.get());
  return surface;
}

void take(cairo_t* c, Ink ink, double opacity = 1) {
  const std::uint32_t rgb = colour(ink).light;
  cairo_set_source_rgba(c, (rgb >> 16 & 255) / 255.0, (rgb >> 8 & 255) / 255.0, (rgb & 255) / 255.0, opacity);
}

void take(cairo_t* c, const Stroke& stroke) {
  static constexpr double dashes[] = {dash, dash_gap};
  take(c, stroke.ink);
  cairo_set_line_width(c, stroke.width);
  cairo_set_dash(c, dashes, stroke.dashed ? 2 : 0, 0);
}

// ---- One function a shape, on a canvas whose unit is the picture's -------------------------------------------

void draw(cairo_t* c, const Picture::Polyline& line) {
  cairo_new_path(c);
  for (const Point& p : line.points) cairo_line_to(c, p.x, p.y);
  take(c, line.stroke);
  cairo_stroke(c);
}

void draw(cairo_t* c, const Picture::Disc& disc) {
  cairo_new_path(c);
  cairo_arc(c, disc.centre.x, disc.centre.y, disc.radius, 0, 2 * M_PI);
  take(c, disc.ink, disc.opacity);
  cairo_fill(c);
}

void draw(cairo_t* c, const Picture::Ring& ring) {
  cairo_new_path(c);
  cairo_arc(c, ring.centre.x, ring.centre.y, ring.radius, 0, 2 * M_PI);
  take(c, ring.stroke);
  cairo_stroke(c);
}

void draw(cairo_t* c, const Picture::Box& box) {
  cairo_rectangle(c, box.corner.x, box.corner.y, box.width, box.height);
  take(c, box.ink);
  cairo_fill(c);
}

void draw(cairo_t* c, const Picture::Text& text) {
  if (font() == nullptr) return;
  const auto& [at, words, style] = text;
  cairo_save(c);
  cairo_set_font_size(c, style.size * 0.94);  // DejaVu is wider than the fonts that pages are set in
  cairo_text_extents_t size;
  cairo_text_extents(c, words.c_str(), &size);
  cairo_translate(c, at.x, at.y);
  if (style.upwards) cairo_rotate(c, -M_PI / 2);
  cairo_move_to(c, -size.x_advance * static_cast<int>(style.anchor) / 2, 0);
  if (style.halo) {
    cairo_text_path(c, words.c_str());
    take(c, Stroke{Ink::paper, halo_width});
    cairo_stroke_preserve(c);
    take(c, style.ink);
    cairo_fill(c);
  } else {
    take(c, style.ink);
    cairo_show_text(c, words.c_str());
  }
  cairo_restore(c);
}

void draw(cairo_t* c, const Picture::Image& image) {
  const Surface surface = surface_of(image.raster);
  cairo_save(c);
  cairo_translate(c, image.corner.x, image.corner.y);
  cairo_scale(c, image.scale, image.scale);
  cairo_set_source_surface(c, surface.get(), 0, 0);
  cairo_pattern_set_filter(cairo_get_source(c), CAIRO_FILTER_NEAREST);
  cairo_paint(c);
  cairo_restore(c);
}

void draw(cairo_t*, const std::vector<Picture::Shape>&);

void draw(cairo_t* c, const Picture::Part& part) {
  cairo_save(c);
  cairo_translate(c, part.corner.x, part.corner.y);
  draw(c, part.shapes);
  cairo_restore(c);
}

void draw(cairo_t* c, const std::vector<Picture::Shape>& shapes) {
  for (const Picture::Shape& s : shapes) std::visit([c](const auto& shape) { draw(c, shape); }, s.form);
}

}  // namespace

std::string Raster::png() const { return png_of(surface_of(*this).get()); }

std::string Picture::png() const {
  const Surface surface = new_surface(CAIRO_FORMAT_RGB24, static_cast<int>(width_ * pixels_per_unit),
                                      static_cast<int>(height_ * pixels_per_unit));
  const std::unique_ptr<cairo_t, decltype(&cairo_destroy)> canvas(cairo_create(surface.get()), cairo_destroy);
  cairo_t* const c = canvas.get();
  cairo_scale(c, pixels_per_unit, pixels_per_unit);
  cairo_set_line_join(c, CAIRO_LINE_JOIN_ROUND);
  set_font(c);
  take(c, Ink::paper);
  cairo_paint(c);
  draw(c, shapes_);
  return png_of(surface.get());
}

}  // namespace elbo

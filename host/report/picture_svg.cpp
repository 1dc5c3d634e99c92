// Pictures as SVG: an element a shape, its colours custom properties of the page.
#include "host/report/picture.h"

#include <fmt/format.h>

#include <iterator>

namespace elbo {
namespace {

std::string stroke_of(const Stroke& s) {
  return fmt::format(" fill=\"none\" stroke=\"var(--{})\" stroke-width=\"{:.4g}\"{}", colour(s.ink).name, s.width,
                     s.dashed ? fmt::format(" stroke-dasharray=\"{} {}\"", dash, dash_gap) : "");
}

// ---- One element a shape; `mark` is " class=..." or nothing --------------------------------------------------

std::string svg_of(const Picture::Polyline& line, const std::string& mark) {
  std::string points;
  for (const Point& p : line.points) fmt::format_to(std::back_inserter(points), "{:.1f},{:.1f} ", p.x, p.y);
  return fmt::format("<polyline{}{} points=\"{}\"/>\n", mark, stroke_of(line.stroke), points);
}

std::string svg_of(const Picture::Disc& disc, const std::string& mark) {
  return fmt::format("<circle{} cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.3g}\" fill=\"var(--{})\"{}/>\n", mark, disc.centre.x,
                     disc.centre.y, disc.radius, colour(disc.ink).name,
                     disc.opacity < 1 ? fmt::format(" fill-opacity=\"{:.2f}\"", disc.opacity) : "");
}

std::string svg_of(const Picture::Ring& ring, const std::string& mark) {
  return fmt::format("<circle{} cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\"{}/>\n", mark, ring.centre.x, ring.centre.y,
                     ring.radius, stroke_of(ring.stroke));
}

std::string svg_of(const Picture::Box& box, const std::string& mark) {
  return fmt::format("<rect{} x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" fill=\"var(--{})\"/>\n",
                     mark, box.corner.x, box.corner.y, box.width, box.height, colour(box.ink).name);
}

std::string svg_of(const Picture::Text& text, const std::string& mark) {
  static constexpr const char* anchors[] = {"start", "middle", "end"};
  const auto& [at, words, style] = text;
  return fmt::format(
      "<text{} x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{:.4g}\" fill=\"var(--{})\" text-anchor=\"{}\"{}{}>{}</text>\n",
      mark, at.x, at.y, style.size, colour(style.ink).name, anchors[static_cast<int>(style.anchor)],
      style.upwards ? fmt::format(" transform=\"rotate(-90 {:.1f} {:.1f})\"", at.x, at.y) : "",
      style.halo ? fmt::format(" stroke=\"var(--paper)\" stroke-width=\"{}\" paint-order=\"stroke\"", halo_width) : "",
      escape_html(words));
}

std::string svg_of(const Picture::Image& image, const std::string& mark) {
  return fmt::format(
      "<image{} x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" preserveAspectRatio=\"none\" "
      "image-rendering=\"pixelated\" href=\"{}\"/>\n",
      mark, image.corner.x, image.corner.y, image.raster.width * image.scale, image.raster.height * image.scale,
      data_uri(image.raster.png()));
}

std::string svg_of(const std::vector<Picture::Shape>&);

std::string svg_of(const Picture::Part& part, const std::string& mark) {
  return fmt::format("<g{} transform=\"translate({:.1f} {:.1f})\">\n{}</g>\n", mark, part.corner.x, part.corner.y,
                     svg_of(part.shapes));
}

std::string svg_of(const std::vector<Picture::Shape>& shapes) {
  std::string svg;
  for (const auto& [form, mark] : shapes) {
    const std::string class_attribute = mark.empty() ? "" : fmt::format(" class=\"{}\"", mark);
    svg += std::visit([&](const auto& shape) { return svg_of(shape, class_attribute); }, form);
  }
  return svg;
}

}  // namespace

std::string Picture::svg() const {
  std::string attributes;
  for (const auto& [name, value] : attributes_) attributes += fmt::format(" {}=\"{}\"", name, escape_html(value));
  return fmt::format(
      "<svg viewBox=\"0 0 {0:.6g} {1:.6g}\" width=\"{0:.6g}\" height=\"{1:.6g}\" stroke-linejoin=\"round\" "
      "role=\"img\" aria-label=\"{2}\"{3}>\n{4}</svg>\n",
      width_, height_, escape_html(description_), attributes, svg_of(shapes_));
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

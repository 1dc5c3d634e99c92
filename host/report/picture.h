// A picture that is drawn once and read twice: as SVG inside the page, where colours follow the reader's
// light or dark mode and text is text, and as PNG (light, two pixels for each unit).
#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "host/report/report.h"

typedef struct _cairo cairo_t;

namespace elbo {

// A colour by what it is for. class0 .. class9 are consecutive.
enum class Ink { paper, text, muted, rule, train, test, inactive, class0, class9 = class0 + 9 };

Ink class_ink(std::int64_t label);

// The colours as CSS: one custom property an Ink, "--test:#0b63ad;".
std::string css_colours(bool dark);

struct Point {
  double x = 0, y = 0;
};

struct Stroke {
  Ink ink = Ink::text;
  double width = 1;
  bool dashed = false;
};

enum class Anchor { start, middle, end };

struct TextStyle {
  double size = 12;
  Ink ink = Ink::muted;
  Anchor anchor = Anchor::start;
  bool upwards = false;  // turned by a quarter, to be read from the right
  bool halo = false;     // outlined in paper, to be read on top of other things
};

// Pixels, one for each of an image.
struct Raster {
  int width = 0, height = 0;
  std::vector<std::uint32_t> argb;  // [height, width], premultiplied

  std::string png() const;
};

// Images first .. first + count - 1 in reading order, `gap` clear pixels between them. A pixel that is
// not a number is red, so that it is seen.
Raster contact_sheet(const ImageStrip& images, std::int64_t first, std::int64_t count, std::int64_t columns, int gap);

class Picture {
 public:
  // Sizes in CSS pixels. `description` stands for the picture where it cannot be seen.
  Picture(double width, double height, std::string description);

  // An attribute of the <svg> element.
  void attribute(std::string_view name, std::string_view value);

  // `mark` is the element's class in the SVG, for the page's script and style.
  void line(Point from, Point to, Stroke);
  void polyline(std::span<const Point>, Stroke, std::string_view mark = {});
  void disc(Point centre, double radius, Ink, double opacity = 1, std::string_view mark = {});
  void ring(Point centre, double radius, Stroke);
  void box(Point corner, double width, double height, Ink, std::string_view mark = {});
  void text(Point baseline, std::string_view, TextStyle = {}, std::string_view mark = {});
  void image(Point corner, double scale, const Raster&);

  std::string svg() const;
  std::string png() const;

 private:
  void paint(Ink, double opacity = 1);
  void paint(const Stroke&);

  double width_, height_;
  std::string description_, attributes_, body_;
  std::shared_ptr<cairo_t> cairo_;
};

// &, <, > and quotes as HTML wants them.
std::string escape_html(std::string_view);

std::string data_uri(const std::string& png);

}  // namespace elbo

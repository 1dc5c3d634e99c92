// A picture as plain data: its shapes are told once and written twice, as SVG inside the page, where colours follow
// the reader's light or dark mode and text is text, and as PNG (light, two pixels for each unit).
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "host/report/report.h"

namespace elbo {

// A colour by what it is for. class0 .. class9 are consecutive.
enum class Ink { paper, text, muted, rule, train, test, inactive, class0, class9 = class0 + 9 };

Ink class_ink(std::int64_t label);

// "test", and 0xrrggbb on light and on dark paper.
struct Colour {
  const char* name;
  std::uint32_t light, dark;
};
const Colour& colour(Ink);

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
inline constexpr double dash = 4, dash_gap = 3;

enum class Anchor { start, middle, end };

struct TextStyle {
  double size = 12;
  Ink ink = Ink::muted;
  Anchor anchor = Anchor::start;
  bool upwards = false;  // turned by a quarter, to be read from the right
  bool halo = false;     // outlined in paper, to be read on top of other things
};
inline constexpr double halo_width = 3;  // half of it lies outside the letters

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
  struct Shape;
  struct Polyline {
    std::vector<Point> points;
    Stroke stroke;
  };
  struct Disc {
    Point centre;
    double radius;
    Ink ink;
    double opacity;
  };
  struct Ring {
    Point centre;
    double radius;
    Stroke stroke;
  };
  struct Box {
    Point corner;
    double width, height;
    Ink ink;
  };
  struct Text {
    Point baseline;
    std::string words;
    TextStyle style;
  };
  struct Image {
    Point corner;
    double scale;
    Raster raster;
  };
  struct Part {
    Point corner;
    std::vector<Shape> shapes;
  };
  struct Shape {
    std::variant<Polyline, Disc, Ring, Box, Text, Image, Part> form;
    std::string mark;  // the element's class in the SVG, for the page's script and style
  };

  // Sizes in CSS pixels. `description` stands for the picture where it cannot be seen.
  Picture(double width, double height, std::string description)
      : width_(width), height_(height), description_(std::move(description)) {}

  // An attribute of the <svg> element.
  void attribute(std::string name, std::string value) { attributes_.emplace_back(std::move(name), std::move(value)); }

  // Shapes, each on top of those before.
  void line(Point from, Point to, Stroke);
  void polyline(std::vector<Point>, Stroke, std::string mark = {});
  void disc(Point centre, double radius, Ink, double opacity = 1, std::string mark = {});
  void ring(Point centre, double radius, Stroke);
  void box(Point corner, double width, double height, Ink, std::string mark = {});
  void text(Point baseline, std::string words, TextStyle = {}, std::string mark = {});
  void image(Point corner, double scale, Raster);
  void part(Point corner, const Picture&);  // all shapes of another picture

  std::string svg() const;
  std::string png() const;

 private:
  double width_, height_;
  std::string description_;
  std::vector<std::pair<std::string, std::string>> attributes_;
  std::vector<Shape> shapes_;
};

// &, <, > and quotes as HTML wants them.
std::string escape_html(std::string_view);

std::string data_uri(const std::string& png);

}  // namespace elbo

#include "host/report/page.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "host/base/progress.h"
#include "host/report/page_assets.h"
#include "host/report/plot.h"

namespace elbo {
namespace {

// "60,000"
std::string grouped(std::int64_t value) {
  std::string digits = std::to_string(value);
  for (std::ptrdiff_t i = static_cast<std::ptrdiff_t>(digits.size()) - 3; i > (value < 0 ? 1 : 0); i -= 3)
    digits.insert(static_cast<std::size_t>(i), 1, ',');
  return digits;
}

// Whether every class that occurs has as many.
bool equally_many(const std::vector<std::uint8_t>& labels) {
  std::array<std::size_t, 256> sizes{};
  for (const std::uint8_t label : labels) ++sizes[label];
  std::set<std::size_t> different(sizes.begin(), sizes.end());
  different.erase(0);
  return different.size() == 1;
}

// JSON text in colours; whatever is no JSON comes out as it went in.
std::string highlight_json(const std::string& text) {
  std::string html;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end = i + 1;
    const char* kind = nullptr;
    if (text[i] == '"') {
      while (end < text.size() && text[end] != '"') end += text[end] == '\\' ? 2 : 1;
      end = std::min(end + 1, text.size());
      const std::size_t next = text.find_first_not_of(" \t\r\n", end);
      kind = next != std::string::npos && text[next] == ':' ? "key" : "string";
    } else if (text[i] == '-' || std::isdigit(static_cast<unsigned char>(text[i]))) {
      end = std::min(text.find_first_not_of("0123456789+-.eE", i), text.size());
      kind = "number";
    } else if (std::isalpha(static_cast<unsigned char>(text[i]))) {
      while (end < text.size() && std::isalpha(static_cast<unsigned char>(text[end]))) ++end;
      kind = "word";
    }
    const std::string token = escape_html(text.substr(i, end - i));
    html += kind ? fmt::format("<span class=\"{}\">{}</span>", kind, token) : token;
    i = end;
  }
  return html;
}

// What page.js works on.
std::string script_data(const ReportData& data, const std::vector<EpochMetrics>& shown) {
  using nlohmann::json;
  json root{{"measures", json::array()}, {"epochs", json::array()}};
  const std::vector<Measure> measures = measures_of(shown);
  for (const Measure& m : measures) root["measures"].push_back(m.name);
  const auto values = [&](const Figures& f) {
    json list = json::array();
    for (const Measure& m : measures) list.push_back(m.value(f));
    return list;
  };
  for (const EpochMetrics& e : shown)
    root["epochs"].push_back({{"epoch", e.epoch}, {"train", values(e.train)}, {"test", values(e.test)}});
  if (data.latent == 3) {
    const View view;
    json means = json::array(), labels = json::array();
    for (std::size_t i = 0; i < data.means.size(); i += 3) {
      if (!std::all_of(&data.means[i], &data.means[i] + 3, [](float v) { return std::isfinite(v); })) continue;
      for (std::size_t k = i; k < i + 3; ++k) means.push_back(std::round(data.means[k] * 1000.0) / 1000.0);
      if (!data.labels.empty()) labels.push_back(data.labels[i / 3]);
    }
    root["scatter"] = {{"means", means},
                       {"labels", data.labels.empty() ? json() : labels},
                       {"names", data.class_names},
                       {"reach", cube_reach(data)},
                       {"view", {{"yaw", view.yaw}, {"pitch", view.pitch}}}};
  }
  std::string text = root.dump(-1, ' ', false, json::error_handler_t::replace);
  for (std::size_t at = 0; (at = text.find('<', at)) != std::string::npos;) text.replace(at, 1, "\\u003c");
  return text;
}

std::string image(const Raster& raster, const std::string& alt) {
  return fmt::format(
      "<img class=\"pixels\" style=\"--own:{0}px\" src=\"{1}\" width=\"{0}\" height=\"{2}\" alt=\"{3}\">\n",
      raster.width, data_uri(raster.png()), raster.height, escape_html(alt));
}

std::string section(const char* id, const char* title, const std::string& content) {
  return fmt::format("<section aria-labelledby=\"{0}\">\n<h2 id=\"{0}\">{1}</h2>\n{2}</section>\n", id, title, content);
}

// ---- Parts of the page, in reading order ------------------------------------------------------------------

std::string figures_of_merit(const ReportData& data) {
  const std::string nats = "nats per image";
  std::string html = "<dl class=\"figures\">\n";
  const auto add = [&](const char* mark, const std::string& name, const std::string& value, const std::string& note) {
    html += fmt::format("<div{}><dt>{}</dt><dd>{} <small>{}</small></dd></div>\n", mark, name, value, note);
  };
  if (!data.epochs.empty()) {
    const Figures& test = data.epochs.back().test;
    const EpochMetrics& best = best_epoch(data.epochs);
    // Of the bound by which epochs are judged: where it was better before.
    const auto note = [&](bool is_judge) {
      if (!is_judge || best.epoch == data.epochs.back().epoch || std::isnan(best.test.bound())) return nats;
      return fmt::format("{}; best {}, epoch {}", nats, short_number(best.test.bound(), 2), best.epoch);
    };
    const bool has_bound = std::ranges::any_of(test.further, Figures::is_bound, &NamedFigure::name);
    const auto add_further = [&](bool bounds) {
      for (const auto& [name, value] : test.further)
        if (Figures::is_bound(name) == bounds)
          add(bounds ? " class=\"first\"" : "", escape_html(title_of_further(name)), short_number(value, 2),
              note(bounds));
    };
    add_further(true);
    add(has_bound ? "" : " class=\"first\"", "Test ELBO", short_number(test.elbo, 2), note(!has_bound));
    add("", "Reconstruction", short_number(test.reconstruction, 2), nats);
    add("", "KL divergence", short_number(test.kl, 2), nats);
    add_further(false);
  }
  add("", "Time", format_seconds(data.seconds),
      grouped(static_cast<std::int64_t>(data.epochs.size())) + (data.epochs.size() == 1 ? " epoch" : " epochs"));
  if (!data.epochs.empty()) {
    std::vector<double> speeds;
    for (const EpochMetrics& e : data.epochs)
      if (std::isfinite(e.images_per_second)) speeds.push_back(e.images_per_second);
    std::sort(speeds.begin(), speeds.end());
    if (!speeds.empty())
      add("", "Images per second", grouped(std::llround(speeds[speeds.size() / 2])), "training, median epoch");
  }
  add("", "Parameters", grouped(data.parameters),
      fmt::format("{} latent unit{}", data.latent, data.latent == 1 ? "" : "s"));
  return html + "</dl>\n";
}

// Says of how many epochs only some are shown.
std::string table_of_epochs(const std::vector<EpochMetrics>& shown, std::size_t of) {
  const std::vector<Measure> measures = measures_of(shown);
  std::string html =
      "<details class=\"epochs\"><summary>The numbers behind the curves" +
      (shown.size() < of
           ? fmt::format(", {} of {} epochs", grouped(std::ssize(shown)), grouped(static_cast<std::int64_t>(of)))
           : "") +
      "</summary>\n"
      "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table of epochs\"><table class=\"numbers\">\n"
      "<thead><tr><th scope=\"col\" rowspan=\"2\">Epoch</th>";
  for (const Measure& m : measures)
    html += fmt::format("<th scope=\"colgroup\" colspan=\"2\">{}</th>", escape_html(m.title));
  html += "<th scope=\"col\" rowspan=\"2\">Images/s</th><th scope=\"col\" rowspan=\"2\">Time, s</th></tr>\n<tr>";
  for (std::size_t i = 0; i < measures.size(); ++i) html += "<th scope=\"col\">test</th><th scope=\"col\">train</th>";
  html += "</tr></thead>\n<tbody>\n";
  for (const EpochMetrics& e : shown) {
    html += fmt::format("<tr><th scope=\"row\">{}</th>", e.epoch);
    for (const Measure& m : measures)
      html += fmt::format("<td>{}</td><td>{}</td>", number(m.value(e.test), 3), number(m.value(e.train), 3));
    html += fmt::format("<td>{}</td><td>{}</td></tr>\n",
                        std::isfinite(e.images_per_second) ? grouped(std::llround(e.images_per_second)) : "–",
                        number(e.seconds, 1));
  }
  return html + "</tbody></table></div></details>\n";
}

std::string learning(const ReportData& data, const std::vector<EpochMetrics>& shown) {
  if (data.epochs.empty()) return section("learning", "Learning", "<p>No epoch was finished.</p>\n");
  std::string html =
      "<p class=\"lead\">Averages in nats per image; the ELBO is minus the sum of reconstruction and KL. Training "
      "values are averages over an epoch while the weights change, test values are taken at its end.</p>\n";
  const auto bad = std::count_if(data.epochs.begin(), data.epochs.end(), [](const EpochMetrics& e) {
    return !std::isfinite(e.test.elbo + e.test.bound()) || !std::isfinite(e.train.elbo + e.train.bound());
  });
  if (bad > 0)
    html += fmt::format(
        "<p role=\"alert\"><strong>{} of {} epochs have values that are not finite</strong>: the curves "
        "have gaps there.</p>\n",
        bad, data.epochs.size());
  html += "<figure class=\"panels\">\n";
  for (const Measure& m : measures_of(shown)) html += curve_panel(shown, m).svg();
  html +=
      "</figure>\n<p class=\"readout\" data-hint=\"Point at a curve to read its values.\">Point at a curve to read its "
      "values.</p>\n";
  return section("learning", "Learning", html + table_of_epochs(shown, data.epochs.size()));
}

std::string reconstructions(const ReportData& data) {
  const std::int64_t n = data.originals.count;
  const Raster above = contact_sheet(data.originals, 0, n, n, 2),
               below = contact_sheet(data.reconstructions, 0, n, n, 2);
  std::string html =
      "<p class=\"lead\">Test images, and below them what the decoder makes of the mean of their posterior.</p>\n"
      "<figure class=\"pair\">\n";
  if (!data.original_names.empty()) {
    html += fmt::format(
        "<span class=\"corner\"></span><div class=\"names\" style=\"--own:{0}px;column-gap:calc(200%/{0})\">",
        above.width);
    for (const std::string& name : data.original_names) html += fmt::format("<span>{}</span>", escape_html(name));
    html += "</div>\n";
  }
  html += "<span>original</span>" + image(above, fmt::format("{} test images", n)) + "<span>reconstruction</span>" +
          image(below, "Their reconstructions, in the same order") + "</figure>\n";
  return section("reconstructions", "Reconstructions", html);
}

std::string legend(const ReportData& data) {
  if (data.labels.empty()) return "";
  std::string html = "<ul class=\"legend\" aria-label=\"Classes: press to hide or show\">\n";
  for (const int label : std::set<int>(data.labels.begin(), data.labels.end())) {
    const auto index = static_cast<std::size_t>(label);
    const std::string name = index < data.class_names.size() ? data.class_names[index] : std::to_string(label);
    html += fmt::format(
        "<li><button type=\"button\" aria-pressed=\"true\" data-label=\"{}\" style=\"--dot:var(--class{})\">{}</button>"
        "</li>\n",
        label, label % 10, escape_html(name));
  }
  return html + "</ul>\n";
}

std::string latent_space(const ReportData& data) {
  const std::size_t n = data.means.size() / static_cast<std::size_t>(data.latent);
  std::string points = fmt::format("Posterior means of {} test images", grouped(static_cast<std::int64_t>(n)));
  if (!data.labels.empty())
    points += fmt::format(", {} of each class; press a class to hide it",
                          equally_many(data.labels) ? "equally many" : "some");
  std::string html;
  if (data.latent == 2) {
    html = "<div class=\"side-by-side\">\n<figure class=\"scatter\">\n" + scatter(data, Legend::none).svg() +
           legend(data) + "<figcaption>" + points +
           ". The dashed circles hold half and 95 % of the prior.</figcaption>\n</figure>\n";
    if (data.manifold_side > 0)
      html += "<figure>\n" + manifold(data).svg() +
              "<figcaption>What the decoder makes of the plane: a grid of equal steps in probability, sent through the "
              "inverse of the normal distribution function, so that each image stands for the same share of the prior."
              "</figcaption>\n</figure>\n";
    html += "</div>\n";
  } else {
    const double reach = cube_reach(data);
    html = "<figure class=\"scatter\">\n<div class=\"turn\">\n" + scatter(data, Legend::none).svg() + "</div>\n" +
           legend(data) +
           fmt::format(
               "<figcaption>{}. The cube holds 99 % of them and runs from {} to {} on each axis. <span "
               "class=\"hint\">Drag it to turn "
               "it, or use the arrow keys; a double click turns it back.</span></figcaption>\n</figure>\n",
               points, number(-reach, 1), number(reach, 1));
  }
  return section("latent", "Latent space", html);
}

std::string prior_samples(const ReportData& data) {
  const std::int64_t n = data.samples.count;
  return section("samples", "Samples",
                 "<p class=\"lead\">Decoded draws of z from the prior N(0, I).</p>\n<figure class=\"sheet\">\n" +
                     image(contact_sheet(data.samples, 0, n, std::min<std::int64_t>(n, 10), 2),
                           fmt::format("{} images decoded from samples of the prior", n)) +
                     "</figure>\n");
}

std::string units(const ReportData& data) {
  const std::vector<double>& nats = data.epochs.back().test.unit_kl;
  std::string html = fmt::format(
      "<p class=\"lead\">What each latent unit says about an image, on average over the test set. A unit counts as "
      "active "
      "above {} nats; the others have fallen back to the prior.</p>\n<figure>\n{}</figure>\n",
      active_unit_nats, unit_kl(nats).svg());
  html +=
      "<details><summary>The numbers behind the bars</summary>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" "
      "aria-label=\"Table of units\"><table class=\"numbers\">\n<thead><tr><th scope=\"col\">Unit</th><th "
      "scope=\"col\">KL, nats</th></tr></thead>\n<tbody>\n";
  for (std::size_t i = 0; i < nats.size(); ++i)
    html += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", i + 1, number(nats[i], 4));
  return section("units", "Latent units", html + "</tbody></table></div></details>\n");
}

std::string run_facts(const ReportData& data) {
  std::string html = "<table class=\"facts\">\n";
  const auto add = [&](const char* name, const std::string& value) {
    if (!value.empty()) html += fmt::format("<tr><th scope=\"row\">{}</th><td>{}</td></tr>\n", name, value);
  };
  add("Objective", escape_html(data.objective));
  add("Images", fmt::format("{} for training, {} for testing", grouped(data.train_images), grouped(data.test_images)));
  add("Device", escape_html(data.device));
  add("Machine", escape_html(data.machine));
  if (!data.command.empty()) add("Command", "<code>" + escape_html(data.command) + "</code>");
  add("Date", escape_html(data.date));
  add("Version", escape_html(data.version));
  html += "</table>\n";
  if (!data.spec_json.empty())
    html += "<details class=\"spec\" open><summary>The experiment, every default filled in</summary>\n<pre>" +
            highlight_json(data.spec_json) + "</pre></details>\n";
  return section("run", "This run", html);
}

}  // namespace

std::string page_begin(const std::string& maker, const std::string& title) {
  return fmt::format(
      "<!DOCTYPE html>\n<!-- elbo {} -->\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src "
      "'unsafe-inline'; script-src 'unsafe-inline'\">\n"
      "<link rel=\"icon\" href=\"data:,\">\n<title>{} · elbo</title>\n<style>\n"
      ":root{{{}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{}}}}}\n{}</style>\n</head>\n<body>\n",
      maker, escape_html(title), css_colours(false), css_colours(true), page_css);
}

std::string report_page(const ReportData& data) {
  const std::string name = escape_html(data.name);
  std::string html = page_begin("report", data.name);
  html += fmt::format(
      "<header>\n<h1>{}</h1>\n<p class=\"lead\">A variational auto-encoder with {} latent unit{}{}{}.</p>\n{}"
      "</header>\n<main>\n",
      name, data.latent, data.latent == 1 ? "" : "s", data.device.empty() ? "" : ", trained on ",
      escape_html(data.device), figures_of_merit(data));
  const std::vector<EpochMetrics> shown = thinned(data.epochs);
  html += learning(data, shown);
  if (data.originals.count > 0) html += reconstructions(data);
  if ((data.latent == 2 || data.latent == 3) && !data.means.empty()) html += latent_space(data);
  if (data.samples.count > 0) html += prior_samples(data);
  if (!data.epochs.empty() && !data.epochs.back().test.unit_kl.empty()) html += units(data);
  html += run_facts(data);
  html += fmt::format(
      "</main>\n<footer>Written by elbo {}. The pictures of this page lie beside it as PNG files in "
      "<code>figures/</code>.</footer>\n<script type=\"application/json\" id=\"data\">{}</script>\n"
      "<script>\n{}</script>\n</body>\n</html>\n",
      escape_html(data.version), script_data(data, shown), page_js);
  return html;
}

}  // namespace elbo

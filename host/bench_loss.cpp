#include "host/bench_loss.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "elbo/math/likelihood.h"
#include "elbo/math/random.h"
#include "host/bench.h"
#include "host/devices.h"
#include "host/files.h"
#include "host/report/page.h"
#include "host/report/picture.h"

namespace elbo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double variance = 0.25;                              // of the Gaussian
constexpr std::size_t rotated_bytes = std::size_t{256} << 20;  // inputs and gradients, in all: more than a cache holds

// Bytes an element, by the kernels' contracts; target: bytes of one of its elements.
double bytes_of(Kernels kernels, double target) {
  switch (kernels) {
    case Kernels::unfused: return 28 + 2 * target;
    case Kernels::two_pass: return 12 + 2 * target;
    default: return 8 + target;
  }
}

const char* name_of(Likelihood l) { return l == Likelihood::bernoulli ? "bernoulli" : "gaussian"; }

// What goes in: the same on the host and in each of the rotated sets on the device.
struct Inputs {
  std::vector<float> outputs, targets;
  std::vector<std::uint8_t> pixels;

  explicit Inputs(std::int64_t count) {
    for (std::uint32_t quad = 0; 4 * std::int64_t{quad} < count; ++quad) {
      const math::Draw draw{1, Purpose::prior, 0, 0, 0};
      const math::Normals4 n = math::normals(draw, quad);
      const math::Words w = math::random_words({1, Purpose::binarize, 0, 0, 0}, quad);
      const std::uint32_t words[] = {w.x, w.y, w.z, w.w};
      for (std::int64_t j = 0; j < 4 && 4 * std::int64_t{quad} + j < count; ++j) {
        outputs.push_back(3 * n.v[j]);
        pixels.push_back(static_cast<std::uint8_t>(words[j] >> 24));
        targets.push_back(math::pixel_value<float>(pixels.back()));
      }
    }
  }
};

// What should come out, in double.
struct Reference {
  double value = 0, largest = 0;  // the sum of the losses; the largest gradient
  std::vector<double> gradients;

  Reference(Likelihood l, const Inputs& inputs) {
    gradients.reserve(inputs.outputs.size());
    for (std::size_t i = 0; i < inputs.outputs.size(); ++i) {
      const double output = inputs.outputs[i], x = inputs.pixels[i] / 255.0;
      const math::ValueGrad<double> v =
          l == Likelihood::bernoulli ? math::bernoulli(output, x)
                                     : math::gaussian(output, x, 0.5 / variance, 0.5 * std::log(2 * M_PI * variance));
      value += v.value;
      largest = std::max(largest, std::abs(v.grad));
      gradients.push_back(v.grad);
    }
  }
};

// How one would write it first.
double naive(Likelihood l, const std::vector<float>& outputs, const std::vector<float>& targets,
             std::vector<float>& gradients) {
  double sum = 0;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const float o = outputs[i], x = targets[i];
    if (l == Likelihood::bernoulli) {
      sum += static_cast<double>(std::max(o, 0.0f) - o * x + std::log1p(std::exp(-std::abs(o))));
      gradients[i] = 1.0f / (1.0f + std::exp(-o)) - x;
    } else {
      const float d = o - x;
      sum += static_cast<double>(
          0.5f * (d * d / static_cast<float>(variance) + std::log(2 * static_cast<float>(M_PI * variance))));
      gradients[i] = d / static_cast<float>(variance);
    }
  }
  return sum;
}

// Timings of `call`, microseconds each, sorted: for `seconds`, and at least 30 of them (7 where that takes more than
// five seconds).
template <class Call, class Wait>
std::vector<double> time_calls(const Call& call, const Wait& wait, int calls_each, double seconds) {
  for (int i = 0; i < 3; ++i) call();
  wait();
  std::vector<double> times;
  const Clock::time_point begin = Clock::now();
  const auto elapsed = [](Clock::time_point since) {
    return std::chrono::duration<double>(Clock::now() - since).count();
  };
  while (times.size() < 7 || (times.size() < 30 && elapsed(begin) < 5) ||
         (elapsed(begin) < seconds && times.size() < 10000)) {
    const Clock::time_point start = Clock::now();
    for (int i = 0; i < calls_each; ++i) call();
    wait();
    times.push_back(1e6 * elapsed(start) / calls_each);
  }
  std::ranges::sort(times);
  return times;
}

class Bench {
 public:
  explicit Bench(const BenchLossOptions& options)
      : options_(options), opened_(open_device(options.device, options.backend)), device_(*opened_.backend) {
    result_.device = device_.info();
    is_cpu_ = result_.device.name == "cpu";
    is_sim_ = result_.device.name == "sim";
  }

  LossBench run() {
    measure_copy();
    std::vector<std::string> shapes = options_.shapes;
    if (shapes.empty()) {
      shapes = {"100x784"};
      if (!is_sim_) shapes.insert(shapes.end(), {"65536x784", "512x3x218x178"});
    }
    for (const std::string& text : shapes) measure_shape(parse_loss_shape(text));
    return result_;
  }

 private:
  int calls_each() const { return is_cpu_ ? 1 : 10; }

  void measure_copy() {
    const std::size_t bytes = is_sim_ ? std::size_t{1} << 20 : rotated_bytes;
    const Buffer from(device_, bytes, Memory::device, "a copy"), to(device_, bytes, Memory::device, "a copy");
    const Tensor a{from.data(), DType::u8, {static_cast<std::int64_t>(bytes)}}, b{to.data(), DType::u8, a.shape};
    device_.fill(a, 1);
    device_.fill(b, 2);
    const std::vector<double> times =
        time_calls([&] { device_.copy(b, a); }, [&] { device_.synchronize(); }, calls_each(), options_.seconds);
    result_.copy_bandwidth = 2.0 * static_cast<double>(bytes) / (1e-6 * quantile(times, 0.5));
  }

  void measure_shape(const LossShape& shape) {
    const Inputs inputs(shape.rows * shape.pixels);
    for (const Likelihood likelihood : {Likelihood::bernoulli, Likelihood::gaussian}) {
      const Reference reference(likelihood, inputs);
      for (const DType target : {DType::f32, DType::u8}) {
        if (is_cpu_ && target == DType::f32) measure(shape, inputs, reference, likelihood, target, nullptr);
        for (const LossRival& rival : loss_rivals) measure(shape, inputs, reference, likelihood, target, &rival);
      }
    }
  }

  // rival: null for the naive loop of the host
  void measure(const LossShape& shape, const Inputs& inputs, const Reference& reference, Likelihood likelihood,
               DType target, const LossRival* rival) {
    const std::int64_t count = shape.rows * shape.pixels;
    const double per_element = bytes_of(rival ? rival->kernels : Kernels::fused, static_cast<double>(size_of(target)));
    LossTiming t;
    t.shape = shape;
    t.loss = name_of(likelihood);
    t.rival = rival ? rival->name : "naive";
    t.target = elbo::name_of(target);
    t.bytes = per_element * static_cast<double>(count);
    t.launches = rival ? rival->likelihood_launches : 1;

    double value = 0;
    std::vector<float> gradients(static_cast<std::size_t>(count));
    std::vector<double> times;
    if (!rival) {
      times = time_calls([&] { value = naive(likelihood, inputs.outputs, inputs.targets, gradients); }, [] {}, 1,
                         options_.seconds);
    } else {
      std::tie(times, value) = run_on_device(shape, inputs, likelihood, target, rival->kernels, gradients, t);
    }
    t.median_us = quantile(times, 0.5);
    t.p10_us = quantile(times, 0.1);
    t.p90_us = quantile(times, 0.9);

    double worst = 0;
    for (std::size_t i = 0; i < gradients.size(); ++i)
      worst = std::max(worst, std::abs(gradients[i] - reference.gradients[i]));
    t.value_error = std::abs(value - reference.value) / std::abs(reference.value);
    t.gradient_error = worst / reference.largest;
    result_.timings.push_back(std::move(t));
  }

  // The sorted timings, and the sum of the losses.
  std::pair<std::vector<double>, double> run_on_device(const LossShape& shape, const Inputs& inputs,
                                                       Likelihood likelihood, DType target, Kernels kernels,
                                                       std::vector<float>& gradients, LossTiming& timing) {
    const Shape logits{shape.rows, shape.pixels};
    const std::size_t set_bytes = static_cast<std::size_t>(logits.count()) * (8 + size_of(target));
    const std::size_t sets = std::clamp<std::size_t>(rotated_bytes / set_bytes + 1, 1, 512);
    std::vector<Buffers> rotated(is_sim_ ? 1 : sets);
    Tensor scratch;
    const auto layout = [&](Arena& arena) {
      for (Buffers& l : rotated) {
        l.output = arena.take(logits);
        l.target = arena.take(logits, target);
        l.grad = arena.take(logits);
        l.nll = arena.take({shape.rows, tiles(shape.pixels, pixel_chunk)});
      }
      const std::int64_t need = scratch_size(kernels, shape.rows, 1, shape.pixels);
      scratch = need ? arena.take({need}) : Tensor{};
    };
    Arena measure;
    layout(measure);
    Arena arena(device_, measure.used(), "the rotated inputs");
    layout(arena);
    timing.scratch_bytes = scratch ? static_cast<double>(scratch.bytes()) : 0;
    for (const Buffers& l : rotated) {
      device_.upload(l.output, inputs.outputs.data());
      device_.upload(l.target, target == DType::u8 ? static_cast<const void*>(inputs.pixels.data())
                                                   : static_cast<const void*>(inputs.targets.data()));
    }

    std::size_t next = 0;
    const auto call = [&] {
      const Buffers& l = rotated[next++ % rotated.size()];
      device_.likelihood({.output = l.output,
                          .target = l.target,
                          .likelihood = likelihood,
                          .kernels = kernels,
                          .variance = static_cast<float>(variance),
                          .grad_scale = 1,
                          .nll_partial = l.nll,
                          .grad = l.grad,
                          .scratch = scratch});
    };
    const std::vector<double> times = time_calls(
        call, [&] { device_.synchronize(); }, calls_each(), options_.seconds);
    std::vector<float> partial(static_cast<std::size_t>(rotated[0].nll.count()));
    device_.download(partial.data(), rotated[0].nll);
    device_.download(gradients.data(), rotated[0].grad);
    double value = 0;
    for (const float p : partial) value += static_cast<double>(p);
    return {times, value};
  }

  struct Buffers {
    Tensor output, target, grad, nll;
  };

  BenchLossOptions options_;
  OpenedDevice opened_;
  Backend& device_;
  bool is_cpu_ = false, is_sim_ = false;  // the simulated device is for tests, and slow
  LossBench result_;
};

std::string text_of(const LossShape& s) { return fmt::format("{}x{}", s.rows, s.pixels); }

double gigabytes(const LossTiming& t) { return 1e-3 * t.bytes / t.median_us; }

// The timings of one loss at one size.
std::vector<std::vector<LossTiming>> groups(const LossBench& bench) {
  std::vector<std::vector<LossTiming>> all;
  for (const LossTiming& t : bench.timings) {
    const auto same = [&](const std::vector<LossTiming>& g) {
      return g[0].loss == t.loss && text_of(g[0].shape) == text_of(t.shape);
    };
    const auto found = std::ranges::find_if(all, same);
    if (found == all.end()) {
      all.push_back({t});
    } else {
      found->push_back(t);
    }
  }
  return all;
}

void print_table(const LossBench& bench) {
  fmt::print("{}; copy {:.1f} GB/s\n", bench.device.description, 1e-9 * bench.copy_bandwidth);
  for (const std::vector<LossTiming>& group : groups(bench)) {
    fmt::print("\n{} {}\n{:<10}{:<7}{:>12}{:>11}{:>11}{:>7}{:>8}{:>8}{:>9}{:>10}{:>10}{:>10}\n", group[0].loss,
               text_of(group[0].shape), "rival", "target", "median us", "p10", "p90", "times", "GB/s", "% copy",
               "launches", "extra MB", "error", "of grad");
    const double fastest = std::ranges::min(group, {}, [](const LossTiming& t) { return t.median_us; }).median_us;
    for (const LossTiming& t : group)
      fmt::print("{:<10}{:<7}{:>12.1f}{:>11.1f}{:>11.1f}{:>7.1f}{:>8.1f}{:>8.1f}{:>9}{:>10.1f}{:>10.1e}{:>10.1e}\n",
                 t.rival, t.target, t.median_us, t.p10_us, t.p90_us, t.median_us / fastest, gigabytes(t),
                 1e11 * gigabytes(t) / bench.copy_bandwidth, t.launches, 1e-6 * t.scratch_bytes, t.value_error,
                 t.gradient_error);
  }
}

nlohmann::ordered_json to_json(const LossBench& bench) {
  nlohmann::ordered_json j = {{"device", bench.device.name},
                              {"device_description", bench.device.description},
                              {"threads", bench.device.threads},
                              {"copy_bytes_per_second", bench.copy_bandwidth}};
  for (const LossTiming& t : bench.timings)
    j["timings"].push_back({{"loss", t.loss},
                            {"rows", t.shape.rows},
                            {"pixels", t.shape.pixels},
                            {"rival", t.rival},
                            {"target", t.target},
                            {"median_us", t.median_us},
                            {"p10_us", t.p10_us},
                            {"p90_us", t.p90_us},
                            {"bytes", t.bytes},
                            {"launches", t.launches},
                            {"scratch_bytes", t.scratch_bytes},
                            {"value_error", t.value_error},
                            {"gradient_error", t.gradient_error}});
  return j;
}

// Bars of the rate at which each rival moves its bytes, against that of a copy; the time is written beside.
Picture bars(const LossBench& bench, const std::vector<LossTiming>& group) {
  constexpr double row = 26, left = 130, width = 430, top = 26;
  const double roof = 1e-9 * bench.copy_bandwidth;
  double most = roof;
  for (const LossTiming& t : group) most = std::max(most, gigabytes(t));
  const double height = top + row * static_cast<double>(group.size()) + 12;
  Picture picture(
      left + width + 200, height,
      fmt::format("{} {}: gigabytes a second of each rival, and of a copy", group[0].loss, text_of(group[0].shape)));
  const double at_roof = left + width * roof / most;
  for (std::size_t i = 0; i < group.size(); ++i) {
    const LossTiming& t = group[i];
    const double y = top + row * static_cast<double>(i), length = width * gigabytes(t) / most;
    picture.text({left - 10, y + 15}, fmt::format("{}, {}", t.rival, t.target), {13, Ink::text, Anchor::end});
    picture.box({left, y + 3}, length, row - 8, t.rival == "fused" ? Ink::test : Ink::inactive);
    picture.text(
        {std::max(left + length, at_roof > left + length && at_roof < left + length + 170 ? at_roof : 0) + 8, y + 15},
        fmt::format("{:.1f} µs, {:.1f} GB/s", t.median_us, gigabytes(t)), {12, Ink::muted});
  }
  picture.line({at_roof, top - 4}, {at_roof, height - 8}, {Ink::text, 1, true});
  picture.text({at_roof, top - 10}, fmt::format("copy {:.1f} GB/s", roof), {12, Ink::text, Anchor::middle});
  return picture;
}

}  // namespace

LossShape parse_loss_shape(const std::string& text) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  const auto refuse = [&] {
    fail("--shape ", text, ": expected rows x pixels, as in 100x784 or 512x3x218x178; at most 2^31 - 1 in all");
  };
  std::vector<std::int64_t> sizes;
  std::int64_t count = 1;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('x', at), text.size());
    std::int64_t size = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, size);
    if (error != std::errc() || stop != text.data() + end || size < 1 || size > most / count) refuse();
    sizes.push_back(size);
    count *= size;
    at = end + 1;
  }
  if (sizes.size() < 2) refuse();
  return {sizes[0], count / sizes[0]};
}

LossBench measure_losses(const BenchLossOptions& options) { return Bench(options).run(); }

std::string loss_page(const LossBench& bench) {
  std::string html = page_begin("Loss kernels");
  html += fmt::format(
      "<header>\n<h1>Loss kernels</h1>\n<p class=\"lead\">Value and gradient of the reconstruction loss by rival "
      "kernels "
      "on {}. A bar is the rate at which a rival moves the bytes of its contract; the dashed line is a copy, measured "
      "in "
      "the same run. A rival that moves fewer bytes is faster at the same rate: look at the times, "
      "too.</p>\n</header>\n"
      "<main>\n",
      escape_html(bench.device.description));
  for (const std::vector<LossTiming>& group : groups(bench))
    html += fmt::format("<section>\n<h2>{}, {} rows of {} pixels</h2>\n<figure>\n{}</figure>\n</section>\n",
                        group[0].loss == "bernoulli" ? "Bernoulli" : "Gaussian", group[0].shape.rows,
                        group[0].shape.pixels, bars(bench, group).svg());
  return html + "</main>\n</body>\n</html>\n";
}

int bench_loss(const BenchLossOptions& options) {
  require_writable(options.json);
  require_writable(options.page);
  const LossBench bench = measure_losses(options);
  print_table(bench);
  if (!options.json.empty()) replace_file(options.json, to_json(bench).dump(2) + "\n");
  if (!options.page.empty()) replace_file(options.page, loss_page(bench));
  return 0;
}

}  // namespace elbo

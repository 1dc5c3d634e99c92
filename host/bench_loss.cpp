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

#include "host/bench.h"
#include "host/devices.h"
#include "host/files.h"
#include "host/report/page.h"
#include "host/report/picture.h"

namespace elbo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t most_elements = std::numeric_limits<std::int32_t>::max();  // that a kernel takes

// Of buffers, in all: more than a cache holds. At most 2048 sets of them, so that small shapes do not take long.
constexpr std::size_t rotated_bytes = std::size_t{256} << 20;

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

// The target types that a loss is measured with. The head has those of training; without a likelihood it does not
// matter.
std::vector<DType> targets_of(const LossKind& kind) {
  if (!kind.likelihood || kind.has_latent) return {DType::u8};
  return {DType::f32, DType::u8};
}

// two_pass and fused_log are rivals of likelihoods; unfused is one in f32.
bool competes(const LossRival& rival, const LossKind& kind, DType output) {
  if (rival.kernels == Kernels::unfused) return output == DType::f32;
  return kind.likelihood || rival.kernels == Kernels::fused;
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
                            {"latent", t.shape.latent},
                            {"rival", t.rival},
                            {"target", t.target},
                            {"output", t.output},
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
  int calls_each() const { return is_cpu_ || is_sim_ ? 1 : 10; }

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
    for (const std::int64_t latent : options_.latents)
      require(latent <= most_elements / 2 / shape.rows, "--latent ", latent, ": ", shape.rows,
              " rows of it have more than 2^31 - 1 statistics");
    const std::int64_t head = options_.latents.at(0);  // of the head one size is enough
    const LossInputs inputs({shape.rows, shape.pixels, head});
    for (const LossKind& kind : loss_kinds) {
      if (kind.likelihood) {
        const LossShape size{shape.rows, shape.pixels, kind.has_latent ? head : 0};
        for (const DType output : {DType::f32, DType::bf16}) measure(kind, size, output, inputs);
      } else {
        for (const std::int64_t latent : options_.latents) {
          const LossShape size{shape.rows, 0, latent};
          measure(kind, size, DType::f32, LossInputs(size));
        }
      }
      // One that is stopped leaves what it has.
      if (!options_.json.empty()) replace_file(options_.json, to_json(result_).dump(2) + "\n");
    }
  }

  void measure(const LossKind& kind, const LossShape& shape, DType output, const LossInputs& inputs) {
    const LossCase loss(kind, shape, output, inputs);
    LossTiming t;
    t.shape = shape;
    t.loss = kind.name;
    t.output = kind.likelihood ? name_of(output) : "none";
    const auto add = [&](const char* rival, DType target, const std::vector<double>& times, const LossResult& result) {
      const LossCase::Errors errors = loss.errors(result);
      t.rival = rival;
      t.target = kind.likelihood ? name_of(target) : "none";
      t.median_us = quantile(times, 0.5);
      t.p10_us = quantile(times, 0.1);
      t.p90_us = quantile(times, 0.9);
      t.value_error = errors.value;
      t.gradient_error = errors.gradient;
      result_.timings.push_back(t);
    };
    if (is_cpu_ && output == DType::f32) {
      LossResult result;
      const std::vector<double> times = time_calls([&] { loss.naive(result); }, [] {}, 1, options_.seconds);
      t.bytes = loss.bytes(Kernels::fused, DType::f32);
      t.launches = 1;
      t.scratch_bytes = 0;
      add("naive", DType::f32, times, result);
    }
    for (const DType target : targets_of(kind)) {
      for (const LossRival& rival : loss_rivals) {
        if (!competes(rival, kind, output)) continue;
        t.bytes = loss.bytes(rival.kernels, target);
        t.launches = loss.launches(rival);
        t.scratch_bytes = 4.0 * static_cast<double>(loss.scratch(rival.kernels));
        const auto [times, result] = run_on_device(loss, rival.kernels, target);
        add(rival.name, target, times, result);
      }
    }
  }

  // The sorted timings, and what came out.
  std::pair<std::vector<double>, LossResult> run_on_device(const LossCase& loss, Kernels kernels, DType target) {
    Arena one;
    LossCase::Buffers ignored;
    loss.layout(one, ignored, target);
    std::vector<LossCase::Buffers> rotated(is_sim_ ? 1
                                                   : std::clamp<std::size_t>(rotated_bytes / one.used() + 1, 1, 2048));
    Tensor scratch;
    const auto layout = [&](Arena& arena) {
      for (LossCase::Buffers& b : rotated) loss.layout(arena, b, target);
      const std::int64_t need = loss.scratch(kernels);
      scratch = need ? arena.take({need}) : Tensor{};
    };
    Arena measure;
    layout(measure);
    Arena arena(device_, measure.used(), "the rotated inputs");
    layout(arena);
    for (const LossCase::Buffers& b : rotated) loss.upload(device_, b);

    std::size_t next = 0;
    const std::vector<double> times =
        time_calls([&] { loss.call(device_, rotated[next++ % rotated.size()], kernels, scratch); },
                   [&] { device_.synchronize(); }, calls_each(), options_.seconds);
    return {times, loss.download(device_, rotated[0])};
  }

  BenchLossOptions options_;
  OpenedDevice opened_;
  Backend& device_;
  bool is_cpu_ = false, is_sim_ = false;  // the simulated device is for tests, and slow
  LossBench result_;
};

// "100x784", "100x20" of the latent variable, "100x784, 20 latent" of the head.
std::string text_of(const LossShape& s) {
  if (s.pixels == 0) return fmt::format("{}x{}", s.rows, s.latent);
  return fmt::format("{}x{}", s.rows, s.pixels) + (s.latent ? fmt::format(", {} latent", s.latent) : "");
}

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
    fmt::print("\n{} {}\n{:<10}{:<7}{:<7}{:>12}{:>11}{:>11}{:>7}{:>8}{:>8}{:>9}{:>10}{:>10}{:>10}\n", group[0].loss,
               text_of(group[0].shape), "rival", "target", "output", "median us", "p10", "p90", "times", "GB/s",
               "% copy", "launches", "extra MB", "error", "of grad");
    const double fastest = std::ranges::min(group, {}, [](const LossTiming& t) { return t.median_us; }).median_us;
    for (const LossTiming& t : group)
      fmt::print(
          "{:<10}{:<7}{:<7}{:>12.1f}{:>11.1f}{:>11.1f}{:>7.1f}{:>8.1f}{:>8.1f}{:>9}{:>10.1f}{:>10.1e}{:>10.1e}\n",
          t.rival, t.target, t.output, t.median_us, t.p10_us, t.p90_us, t.median_us / fastest, gigabytes(t),
          1e11 * gigabytes(t) / bench.copy_bandwidth, t.launches, 1e-6 * t.scratch_bytes, t.value_error,
          t.gradient_error);
  }
}

std::string title_of(const LossTiming& t) {
  const LossShape& s = t.shape;
  if (t.loss == "latent") return fmt::format("Latent variable, {} rows of {} dimensions", s.rows, s.latent);
  if (t.loss == "elbo")
    return fmt::format("The head: Bernoulli, {} rows of {} pixels and {} latent dimensions", s.rows, s.pixels,
                       s.latent);
  return fmt::format("{}, {} rows of {} pixels", t.loss == "bernoulli" ? "Bernoulli" : "Gaussian", s.rows, s.pixels);
}

// "fused, u8, bf16": rival, target, output; the rival alone where there are no types to choose.
std::string label_of(const LossTiming& t) {
  return t.target == "none" ? t.rival : fmt::format("{}, {}, {}", t.rival, t.target, t.output);
}

// Bars of the rate at which each rival moves its bytes, against that of a copy; the time is written beside.
Picture bars(const LossBench& bench, const std::vector<LossTiming>& group) {
  constexpr double row = 26, left = 170, width = 430, top = 26;
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
    picture.text({left - 10, y + 15}, label_of(t), {13, Ink::text, Anchor::end});
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
  const auto refuse = [&] {
    fail("--shape ", text, ": expected rows x pixels, as in 100x784 or 512x3x218x178; at most 2^31 - 1 in all");
  };
  std::vector<std::int64_t> sizes;
  std::int64_t count = 1;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('x', at), text.size());
    std::int64_t size = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, size);
    if (error != std::errc() || stop != text.data() + end || size < 1 || size > most_elements / count) refuse();
    sizes.push_back(size);
    count *= size;
    at = end + 1;
  }
  if (sizes.size() < 2) refuse();
  return {sizes[0], count / sizes[0], 0};
}

LossBench measure_losses(const BenchLossOptions& options) { return Bench(options).run(); }

std::string loss_page(const LossBench& bench) {
  std::string html = page_begin("Loss kernels");
  html += fmt::format(
      "<header>\n<h1>Loss kernels</h1>\n<p class=\"lead\">Value and gradient by rival kernels on {}: of the "
      "reconstruction loss, of the latent variable (sample, KL divergence, both gradients), and of a VAE's whole head, "
      "which is one after the other. Beside a rival stand the types of target and output. A bar is the rate at which a "
      "rival moves the bytes of its contract; the dashed "
      "line "
      "is a copy, measured in the same run. A rival that moves fewer bytes is faster at the same rate: look at the "
      "times, too.</p>\n</header>\n<main>\n",
      escape_html(bench.device.description));
  for (const std::vector<LossTiming>& group : groups(bench))
    html += fmt::format("<section>\n<h2>{}</h2>\n<figure>\n{}</figure>\n</section>\n", title_of(group[0]),
                        bars(bench, group).svg());
  return html + "</main>\n</body>\n</html>\n";
}

int bench_loss(const BenchLossOptions& options) {
  require_writable(options.json);
  require_writable(options.page, {options.json});
  const LossBench bench = measure_losses(options);
  print_table(bench);
  if (!options.page.empty()) replace_file(options.page, loss_page(bench));
  return 0;
}

}  // namespace elbo

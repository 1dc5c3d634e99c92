#include "host/lab/bench_loss.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "host/base/devices.h"
#include "host/base/timing.h"
#include "host/report/page.h"
#include "host/report/picture.h"
#include "host/train/output.h"

namespace elbo {
namespace {

// Of buffers, in all: more than a cache holds. At most 2048 sets of them, so that small shapes do not take long.
constexpr std::size_t rotated_bytes = std::size_t{256} << 20;

struct Timings {
  std::vector<double> microseconds;  // of a call, sorted
  double sm_clock_mhz = 0;
};

// Times `call` for `seconds`, and at least 30 times (7 where that takes more than five seconds). Each timing is of
// `calls_each` calls and of what waits for them.
struct Timer {
  Backend& device;
  int calls_each;
  double warmup, seconds;

  template <class Call>
  Timings time(const Call& call) const {
    const auto block = [&] {
      for (int i = 0; i < calls_each; ++i) call();
      device.synchronize();
    };
    warm_up(warmup, block);
    ClockRate clock(device);
    std::vector<double> times;
    const Clock::time_point begin = Clock::now();
    while (times.size() < 7 || (times.size() < 30 && seconds_since(begin) < 5) ||
           (seconds_since(begin) < seconds && times.size() < 10000)) {
      const Clock::time_point start = Clock::now();
      block();
      times.push_back(1e6 * seconds_since(start) / calls_each);
      clock.sample([&] {  // two milliseconds of work, more or less
        for (double queued = 0; queued < 2000; queued += std::max(times.back(), 1.0)) call();
      });
    }
    std::ranges::sort(times);
    return {std::move(times), clock.mhz()};
  }
};

// The target types that a loss is measured with. The head has those of training; without a likelihood it does not
// matter.
std::vector<DType> targets_of(const LossKind& kind) {
  if (!kind.likelihood || kind.has_latent) return {DType::u8};
  return {DType::f32, DType::u8};
}

// two_pass and fused_log are rivals of likelihoods; unfused is one in f32.
bool competes(const LossRival& rival, const LossKind& kind, DType output) {
  if (rival.kernels == LossVariant::unfused) return output == DType::f32;
  if (kind.is_weighted()) return rival.kernels == LossVariant::fused;  // two passes in any case
  return kind.likelihood || rival.kernels == LossVariant::fused;
}

nlohmann::ordered_json to_json(const LossBench& bench) {
  nlohmann::ordered_json j = {{"device", bench.device.name},
                              {"device_description", bench.device.description},
                              {"threads", bench.device.threads},
                              {"copy_bytes_per_second", bench.copy_bandwidth}};
  if (bench.copy_sm_clock_mhz > 0) j["copy_sm_clock_mhz"] = bench.copy_sm_clock_mhz;
  for (const LossTiming& t : bench.timings) {
    nlohmann::ordered_json& one = j["timings"].emplace_back();
    one = {{"loss", t.loss},
           {"rows", t.shape.rows},
           {"pixels", t.shape.pixels},
           {"latent", t.shape.latent},
           {"samples", t.shape.samples},
           {"rival", t.rival},
           {"target", t.target},
           {"output", t.output},
           {"median_us", t.median_us},
           {"p10_us", t.p10_us},
           {"p90_us", t.p90_us},
           {"bytes", t.bytes},
           {"launches", t.launches},
           {"scratch_bytes", t.scratch_bytes}};
    if (t.sm_clock_mhz > 0) one["sm_clock_mhz"] = t.sm_clock_mhz;
    if (t.errors) one.update({{"value_error", t.errors->value}, {"gradient_error", t.errors->gradient}});
  }
  return j;
}

// ---- What is asked for -----------------------------------------------------------------------------------------

bool wanted(const std::vector<std::string>& names, const std::string& name) {
  return names.empty() || std::ranges::find(names, name) != names.end();
}

// A rival with the type of its target; the naive loop is none of loss_rivals.
struct Entry {
  const LossRival* rival = nullptr;
  DType target = DType::f32;
};

class Bench {
 public:
  explicit Bench(const BenchLossOptions& options)
      : options_(options), opened_(open_device(options.device, options.backend)), device_(*opened_.backend) {
    result_.device = device_.info();
    is_cpu_ = !result_.device.launches;
    is_sim_ = result_.device.simulated;
    const auto any = [&](const LossKind& kind) { return !outputs_of(kind).empty(); };
    require(
        std::ranges::any_of(loss_kinds, any),
        "nothing is left to measure of what --loss, --rival, --target and --output ask for: unfused takes f32 "
        "outputs only, elbo and iwae u8 targets only, latent and iwae are unfused or fused, and naive is a loop of the "
        "CPU over f32");
    std::vector<std::string> shapes = options_.shapes;
    if (shapes.empty()) {
      shapes = {"100x784"};
      if (!is_sim_) shapes.insert(shapes.end(), {"65536x784", "512x3x218x178"});
    }
    for (const std::string& text : shapes) {
      shapes_.push_back(parse_loss_shape(text));
      require_countable(text, shapes_.back());
    }
    const auto with_latent = [&](const LossKind& kind) { return kind.has_latent && any(kind); };
    if (std::ranges::none_of(loss_kinds, with_latent)) return;
    for (const LossShape& shape : shapes_)
      for (const std::int64_t latent : options_.latents)
        require(latent <= most_gpu_elements / 2 / shape.rows, "--latent ", latent, ": ", shape.rows,
                " rows of it have more than 2^31 - 1 statistics");
  }

  LossBench run() {
    measure_copy();
    for (const LossShape& shape : shapes_) measure_shape(shape);
    return result_;
  }

 private:
  Timer timer() const {
    const int calls_each = is_cpu_ || is_sim_ ? 1 : 10;
    return {device_, calls_each, warmup_seconds(options_.warmup, result_.device), options_.seconds};
  }

  // Throws Error where the outputs of a loss that is asked for are more elements than the device can count.
  void require_countable(const std::string& text, const LossShape& shape) const {
    if (!result_.device.launches) return;
    for (const LossKind& kind : loss_kinds) {
      if (!kind.likelihood || outputs_of(kind).empty()) continue;
      const std::int64_t columns = outputs_of_pixel(*kind.likelihood) * shape.pixels, count = shape.rows * columns;
      require(count <= most_gpu_elements, "--shape ", text, ": the outputs of ", kind.name, " would have ", count,
              " elements ", Shape{shape.rows, columns}, "; a GPU takes at most 2^31 - 1. A smaller --shape has fewer, ",
              "--loss can leave ", kind.name, " out");
    }
  }

  // Who competes in a loss with outputs of this type, and is asked for.
  std::vector<Entry> entries(const LossKind& kind, DType output) const {
    std::vector<Entry> all;
    if (kind.likelihood && !wanted(options_.outputs, name_of(output))) return all;
    const auto wanted_target = [&](DType t) { return !kind.likelihood || wanted(options_.targets, name_of(t)); };
    if (is_cpu_ && output == DType::f32 && wanted(options_.rivals, "naive") && wanted_target(DType::f32))
      all.emplace_back();
    for (const DType target : targets_of(kind)) {
      if (!wanted_target(target)) continue;
      for (const LossRival& rival : loss_rivals)
        if (competes(rival, kind, output) && wanted(options_.rivals, rival.name)) all.push_back({&rival, target});
    }
    return all;
  }

  // The types of outputs with which there is something to measure; f32 where a loss has none.
  std::vector<DType> outputs_of(const LossKind& kind) const {
    std::vector<DType> outputs;
    if (!wanted(options_.losses, kind.name)) return outputs;
    if (!entries(kind, DType::f32).empty()) outputs.push_back(DType::f32);
    if (kind.likelihood && !entries(kind, DType::bf16).empty()) outputs.push_back(DType::bf16);
    return outputs;
  }

  void measure_copy() {
    const std::size_t bytes = is_sim_ ? std::size_t{1} << 20 : rotated_bytes;
    const Buffer from(device_, bytes, Memory::device, "a copy to compare with"),
        to(device_, bytes, Memory::device, "a copy to compare with");
    const Tensor a{from.data(), DType::u8, {static_cast<std::int64_t>(bytes)}}, b{to.data(), DType::u8, a.shape};
    device_.upload(a, random_bits(bytes / sizeof(std::uint32_t)).data());
    device_.fill(b, 0);
    const Timings t = timer().time([&] { device_.copy(b, a); });
    result_.copy_bandwidth = 2.0 * static_cast<double>(bytes) / (1e-6 * quantile(t.microseconds, 0.5));
    result_.copy_sm_clock_mhz = t.sm_clock_mhz;
  }

  void measure_shape(const LossShape& shape) {
    const std::int64_t head = options_.latents.at(0);  // of the head one size is enough
    const auto outputs_each = [](const LossKind& kind) {
      return kind.likelihood ? outputs_of_pixel(*kind.likelihood) : 0;
    };
    const auto has_pixels = [&](const LossKind& kind) { return outputs_each(kind) == 1 && !outputs_of(kind).empty(); };
    const LossInputs inputs({shape.rows, std::ranges::any_of(loss_kinds, has_pixels) ? shape.pixels : 0, head});
    for (const LossKind& kind : loss_kinds) {
      for (const DType output : outputs_of(kind)) {
        if (kind.likelihood) {
          const std::int64_t samples = std::min(kind.samples, shape.rows);
          const LossShape size{shape.rows / samples * samples, shape.pixels, kind.has_latent ? head : 0, samples};
          if (size.rows == shape.rows && outputs_each(kind) == 1) {
            measure(kind, size, output, inputs);
          } else {
            measure(kind, size, output, LossInputs(size, outputs_each(kind)));
          }
          continue;
        }
        for (const std::int64_t latent : options_.latents) {
          const LossShape size{shape.rows, 0, latent};
          measure(kind, size, output, LossInputs(size));
        }
      }
    }
  }

  void measure(const LossKind& kind, const LossShape& shape, DType output, const LossInputs& inputs) {
    LossCase loss(kind, shape, output, inputs);
    if (options_.reference) loss.refer();
    for (const Entry& e : entries(kind, output)) {
      LossTiming t;
      t.shape = shape;
      t.loss = kind.name;
      t.rival = e.rival ? e.rival->name : "naive";
      t.target = kind.likelihood ? name_of(e.target) : "none";
      t.output = kind.likelihood ? name_of(output) : "none";
      t.bytes = loss.bytes(e.rival ? e.rival->kernels : LossVariant::fused, e.target);
      t.launches = e.rival ? loss.launches(*e.rival) : 1;
      t.scratch_bytes = e.rival ? 4.0 * static_cast<double>(loss.scratch(e.rival->kernels)) : 0;
      const auto [timings, result] = e.rival ? run_on_device(loss, e.rival->kernels, e.target) : run_naive(loss);
      t.median_us = quantile(timings.microseconds, 0.5);
      t.p10_us = quantile(timings.microseconds, 0.1);
      t.p90_us = quantile(timings.microseconds, 0.9);
      t.sm_clock_mhz = timings.sm_clock_mhz;
      if (options_.reference) t.errors = loss.errors(result);
      result_.timings.push_back(t);
      // One that is stopped leaves what it has.
      write_output(options_.json, loss_output, to_json(result_).dump(2) + "\n");
    }
  }

  std::pair<Timings, LossResult> run_naive(const LossCase& loss) const {
    LossResult result;
    Timings timings = timer().time([&] { loss.naive(result); });
    return {std::move(timings), std::move(result)};
  }

  // The timings, and what came out, where that will be compared.
  std::pair<Timings, LossResult> run_on_device(const LossCase& loss, LossVariant kernels, DType target) {
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
    const Arena arena = Arena::of(device_, "the rotated inputs", layout);
    loss.upload(device_, rotated[0]);
    for (std::size_t i = 1; i < rotated.size(); ++i) loss.copy_inputs(device_, rotated[i], rotated[0]);

    std::size_t next = 0;
    Timings timings = timer().time([&] { loss.call(device_, rotated[next++ % rotated.size()], kernels, scratch); });
    return {std::move(timings), options_.reference ? loss.download(device_, rotated[0]) : LossResult()};
  }

  BenchLossOptions options_;
  OpenedDevice opened_;
  Backend& device_;
  bool is_cpu_ = false, is_sim_ = false;  // the simulated device is for tests, and slow
  std::vector<LossShape> shapes_;
  LossBench result_;
};

// "100x784", "100x20" of the latent variable, "100x784, 20 latent" of the head.
std::string text_of(const LossShape& s) {
  if (s.pixels == 0) return fmt::format("{}x{}", s.rows, s.latent);
  return fmt::format("{}x{}", s.rows, s.pixels) + (s.latent ? fmt::format(", {} latent", s.latent) : "") +
         (s.samples > 1 ? fmt::format(", {} samples", s.samples) : "");
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
  fmt::print("{}; copy {:.1f} GB/s{}\n", bench.device.description, 1e-9 * bench.copy_bandwidth,
             bench.copy_sm_clock_mhz > 0 ? fmt::format(" at {:.0f} MHz", bench.copy_sm_clock_mhz) : "");
  for (const std::vector<LossTiming>& group : groups(bench)) {
    fmt::print("\n{} {}\n{:<10}{:<7}{:<7}{:>12}{:>11}{:>11}{:>7}{:>8}{:>8}{:>7}{:>9}{:>10}{:>10}{:>10}\n",
               group[0].loss, text_of(group[0].shape), "rival", "target", "output", "median us", "p10", "p90", "times",
               "GB/s", "% copy", "MHz", "launches", "extra MB", "error", "of grad");
    const double fastest = std::ranges::min(group, {}, [](const LossTiming& t) { return t.median_us; }).median_us;
    for (const LossTiming& t : group) {
      const std::string mhz = t.sm_clock_mhz > 0 ? fmt::format("{:.0f}", t.sm_clock_mhz) : "-";
      const std::string value = t.errors ? fmt::format("{:.1e}", t.errors->value) : "-";
      const std::string gradient = t.errors ? fmt::format("{:.1e}", t.errors->gradient) : "-";
      fmt::print("{:<10}{:<7}{:<7}{:>12.1f}{:>11.1f}{:>11.1f}{:>7.1f}{:>8.1f}{:>8.1f}{:>7}{:>9}{:>10.1f}{:>10}{:>10}\n",
                 t.rival, t.target, t.output, t.median_us, t.p10_us, t.p90_us, t.median_us / fastest, gigabytes(t),
                 1e11 * gigabytes(t) / bench.copy_bandwidth, mhz, t.launches, 1e-6 * t.scratch_bytes, value, gradient);
    }
  }
}

std::string title_of(const LossTiming& t) {
  const LossShape& s = t.shape;
  const LossKind& kind = *std::ranges::find(loss_kinds, t.loss, &LossKind::name);
  if (!kind.likelihood) return fmt::format("{}, {} rows of {} dimensions", kind.title, s.rows, s.latent);
  if (s.samples > 1)
    return fmt::format("{}, {} images of {} pixels, {} draws each of {} latent dimensions", kind.title, s.images(),
                       s.pixels, s.samples, s.latent);
  return fmt::format("{}, {} rows of {} pixels", kind.title, s.rows, s.pixels) +
         (kind.has_latent ? fmt::format(" and {} latent dimensions", s.latent) : "");
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

std::vector<std::string> loss_names() {
  std::vector<std::string> names;
  for (const LossKind& kind : loss_kinds) names.emplace_back(kind.name);
  return names;
}

std::vector<std::string> rival_names() {
  std::vector<std::string> names;
  for (const LossRival& rival : loss_rivals) names.emplace_back(rival.name);
  names.emplace_back("naive");
  return names;
}

LossShape parse_loss_shape(const std::string& text) {
  const auto refuse = [&] {
    fail("shape '", text, "': expected rows x pixels, as in 100x784 or 512x3x218x178; at most 2^31 - 1 in all");
  };
  std::vector<std::int64_t> sizes;
  std::int64_t count = 1;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find('x', at), text.size());
    std::int64_t size = 0;
    const auto [stop, error] = std::from_chars(text.data() + at, text.data() + end, size);
    if (error != std::errc() || stop != text.data() + end || size < 1 || size > most_gpu_elements / count) refuse();
    sizes.push_back(size);
    count *= size;
    at = end + 1;
  }
  if (sizes.size() < 2) refuse();
  return {sizes[0], count / sizes[0], 0};
}

LossBench measure_losses(const BenchLossOptions& options) { return Bench(options).run(); }

std::string loss_page(const LossBench& bench) {
  std::string html = page_begin("bench loss", "Loss kernels");
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
  require_output(options.json, loss_output);
  require_output(options.page, loss_page_output, {options.json});
  const LossBench bench = measure_losses(options);
  print_table(bench);
  write_output(options.page, loss_page_output, loss_page(bench));
  return 0;
}

}  // namespace elbo

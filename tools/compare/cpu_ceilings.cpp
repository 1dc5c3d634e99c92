// What this CPU can do at most, as JSON, for tools/compare/step_floors.py:
//
//     cpu_ceilings [THREADS] [PARAMETERS]
//
// FLOP/s of fused multiply-adds in registers, in the widest vectors, alone and on THREADS at once; bytes a second of
// the traffic of an Adam step over so many PARAMETERS (four arrays read, three written) without its arithmetic; the
// time of the CPU backend's Adam for one parameter, by a thread that has all of them in its caches; the time of a loop
// of its team that does nothing, which the caller mostly does alone. Medians of 41.
#include <immintrin.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "cpu/backend.h"
#include "cpu/team.h"
#include "elbo/backend.h"
#include "elbo/step_state.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr int timings = 41;

template <class Work>
double median_seconds(const Work& work) {
  std::vector<double> seconds;
  for (int i = 0; i < timings + 3; ++i) {  // three to warm up
    const auto begin = Clock::now();
    work();
    if (i >= 3) seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::ranges::sort(seconds);
  return seconds[timings / 2];
}

// Ten independent chains in registers: two units of latency 4, and some to spare. Returns the FLOP done.
#if defined(__x86_64__)
#define MULTIPLY_ADD(lanes, vector, set, fma)                                                            \
  vector a = set(0.999f), b = set(0.001f);                                                               \
  vector s0 = b, s1 = b, s2 = b, s3 = b, s4 = b, s5 = b, s6 = b, s7 = b, s8 = b, s9 = b;                 \
  for (std::int64_t i = 0; i < rounds; ++i) {                                                            \
    s0 = fma(s0, a, b), s1 = fma(s1, a, b), s2 = fma(s2, a, b), s3 = fma(s3, a, b), s4 = fma(s4, a, b);  \
    s5 = fma(s5, a, b), s6 = fma(s6, a, b), s7 = fma(s7, a, b), s8 = fma(s8, a, b), s9 = fma(s9, a, b);  \
    asm volatile("" : "+v"(s0), "+v"(s1), "+v"(s2), "+v"(s3), "+v"(s4)); /* else the loop is left out */ \
    asm volatile("" : "+v"(s5), "+v"(s6), "+v"(s7), "+v"(s8), "+v"(s9));                                 \
  }                                                                                                      \
  return 2.0 * 10 * lanes * static_cast<double>(rounds)

__attribute__((target("avx512f"))) double multiply_add_512(std::int64_t rounds) {
  MULTIPLY_ADD(16, __m512, _mm512_set1_ps, _mm512_fmadd_ps);
}
double multiply_add_256(std::int64_t rounds) { MULTIPLY_ADD(8, __m256, _mm256_set1_ps, _mm256_fmadd_ps); }
double multiply_add(std::int64_t rounds) {
  return __builtin_cpu_supports("avx512f") ? multiply_add_512(rounds) : multiply_add_256(rounds);
}
#else
#error "the widest vectors of this kind of CPU are not written here"
#endif

double flops_a_second(elbo::cpu::Team& team) {
  constexpr std::int64_t rounds = 400'000;
  std::vector<double> flops(static_cast<std::size_t>(4 * team.threads()));
  const auto count = static_cast<std::int64_t>(flops.size());
  const double seconds = median_seconds(
      [&] { team.run(count, [&](std::int64_t i) { flops[static_cast<std::size_t>(i)] = multiply_add(rounds); }); });
  return flops[0] * static_cast<double>(count) / seconds;
}

// As cpu/optimizer.cpp walks through them.
double adam_bytes_a_second(elbo::cpu::Team& team, std::int64_t n) {
  std::vector<float> p(static_cast<std::size_t>(n), 1), g = p, m = p, v = p;
  constexpr std::int64_t piece = 16384;
  const double seconds = median_seconds([&] {
    team.run_pieces(n, piece, [&](std::int64_t begin, std::int64_t end) {
#pragma omp simd
      for (std::int64_t i = begin; i < end; ++i) {
        const float gradient = g[static_cast<std::size_t>(i)];
        p[static_cast<std::size_t>(i)] += gradient;
        m[static_cast<std::size_t>(i)] += gradient;
        v[static_cast<std::size_t>(i)] += gradient;
      }
    });
  });
  return 7.0 * sizeof(float) * static_cast<double>(n) / seconds;
}

// A root and two divisions, mostly.
double adam_nanoseconds() {
  constexpr std::int64_t n = 16384;
  elbo::BackendOptions options;
  options.threads = 1;
  const std::unique_ptr<elbo::Backend> cpu = elbo::create_cpu_backend(options);
  const elbo::Buffer memory(*cpu, 4 * n * sizeof(float) + sizeof(elbo::StepState), elbo::Memory::device, "ceilings");
  elbo::Tensor arrays[4];
  const std::vector<float> values(n, 0.01f);
  for (std::int64_t i = 0; i < 4; ++i) {
    arrays[i] = {reinterpret_cast<float*>(memory.data()) + i * n, elbo::DType::f32, {n}};
    cpu->upload(arrays[i], values.data());
  }
  const elbo::Tensor state{memory.data() + 4 * n * sizeof(float), elbo::DType::u8, {sizeof(elbo::StepState)}};
  const elbo::StepState tenth = elbo::state_at(0, 10, {});
  cpu->upload(state, &tenth);
  const double seconds = median_seconds([&] {
    for (int i = 0; i < 20; ++i)
      cpu->run(elbo::OptimizerStep{.parameters = arrays[0],
                                   .gradients = arrays[1],
                                   .first_moment = arrays[2],
                                   .second_moment = arrays[3],
                                   .state = state,
                                   .settings = {}});
  });
  return 1e9 * seconds / 20 / n;
}

int number(const char* text) {
  int value = 0;
  std::from_chars(text, text + std::strlen(text), value);
  return value;
}

}  // namespace

int main(int argc, char** argv) {
  elbo::cpu::Team one(1), team(argc > 1 ? number(argv[1]) : 0);
  const int parameters = argc > 2 ? number(argv[2]) : 815'824;  // W1's
  constexpr int loops = 1000;
  const double loop = median_seconds([&] {
    for (int i = 0; i < loops; ++i) team.run(team.threads(), [](std::int64_t) {});
  });
  std::printf(
      "{\"threads\": %d, \"gflops_of_one\": %.1f, \"gflops\": %.1f, \"adam_gb_per_second\": %.1f, "
      "\"adam_ns\": %.3f, \"empty_loop_us\": %.2f}\n",
      team.threads(), 1e-9 * flops_a_second(one), 1e-9 * flops_a_second(team),
      1e-9 * adam_bytes_a_second(team, parameters), adam_nanoseconds(), 1e6 * loop / loops);
}

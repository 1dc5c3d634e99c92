// A batch out of a data set.
#include "elbo/math/likelihood.h"
#include "elbo/math/random.h"
#include "tests/operations/lab.h"

namespace elbo::test {
namespace {

struct GatherCase {
  std::int64_t images, rows, pixels;
};
// A quad and its tail; rows of one segment of 4,096 pixels, just more, and three; as few images as there may be.
constexpr GatherCase gather_cases[] = {{3, 1, 1},    {12, 3, 3},    {12, 3, 4},   {12, 4, 5},
                                       {99, 33, 16}, {9, 3, 17},    {9, 3, 560},  {3, 1, 784},
                                       {6, 2, 1025}, {12, 2, 4096}, {3, 1, 4097}, {9, 1, 8200}};

TEST_P(Ops, GatherBatch) {
  for (Indexing indexing : {Indexing::shuffled, Indexing::ring, Indexing::sequential}) {
    for (Binarize binarize : {Binarize::none, Binarize::threshold, Binarize::dynamic}) {
      for (const auto [images, rows, columns] : gather_cases) {
        Lab& d = next();
        const Bytes source = pixels(images * columns, 7);
        // Training: batch 1 of epoch 2. Evaluation: the third batch, drawn for by the row's number.
        const StepState s =
            indexing == Indexing::sequential
                ? state_at(11, 2,
                           {.batches_per_epoch = 3,
                            .rows_per_batch = static_cast<std::uint32_t>(rows),
                            .beta1 = 0,
                            .beta2 = 0})
                : state_at(11, 7, {.batches_per_epoch = 3, .rows_per_batch = 0, .beta1 = 0.9f, .beta2 = 0.999f});
        const Tensor input = d.make({rows, columns}), target = d.make({rows, columns}, DType::u8);
        d.run(GatherBatch{.source = d.put({images, columns}, source),
                          .state = d.put(s),
                          .indexing = indexing,
                          .binarize = binarize,
                          .input = input,
                          .target = target});
        Bytes want(at(rows * columns));
        Expected value(rows * columns);
        for (std::int64_t r = 0; r < rows; ++r) {
          const auto row = static_cast<std::uint32_t>(r);
          const std::int64_t from = indexing == Indexing::shuffled
                                        ? math::shuffled_index(11, 2, static_cast<std::uint32_t>(images),
                                                               static_cast<std::uint32_t>(rows) + row)
                                    : indexing == Indexing::ring ? 7 % (images / rows) * rows + r
                                                                 : 2 * rows + r;
          for (std::int64_t p = 0; p < columns; ++p) {
            std::uint8_t pixel = source[at(from * columns + p)];
            if (binarize == Binarize::threshold) pixel = pixel >= 128 ? 255 : 0;
            if (binarize == Binarize::dynamic) {
              const auto w = math::random_words({11, Purpose::binarize, s.noise_step, s.row0 + row, 0},
                                                static_cast<std::uint32_t>(p / 4));
              const std::uint32_t words[] = {w.x, w.y, w.z, w.w};
              pixel = math::bernoulli_draw(words[p % 4], pixel) ? 255 : 0;
            }
            want[at(r * columns + p)] = pixel;
            value.add(r * columns + p, pixel / 255.0);
          }
        }
        EXPECT_EQ(d.get<std::uint8_t>(target), want)
            << "indexing " << static_cast<int>(indexing) << ", binarize " << static_cast<int>(binarize);
        expect_close(d.get(input), value, 1.2e-7, "input");  // one product, one rounded constant
      }
    }
  }
}

TEST_P(OpsAligned, DynamicBinarisationDrawsAnewEachStepAndKeepsTheMean) {
  constexpr std::uint32_t steps = 20;
  constexpr std::int64_t columns = 784;
  const Tensor source = lab().put({1, columns}, Bytes(columns, 64));
  const Tensor input = lab().make({1, columns}), target = lab().make({1, columns}, DType::u8);
  std::vector<Bytes> draws;
  double sum = 0;
  for (std::uint32_t step = 0; step < steps; ++step) {
    lab()->run(GatherBatch{.source = source,
                           .state = lab().put(state_at(1, step, {})),
                           .indexing = Indexing::ring,
                           .binarize = Binarize::dynamic,
                           .input = input,
                           .target = target});
    draws.push_back(lab().get<std::uint8_t>(target));
    for (const float x : lab().get(input)) sum += x;
  }
  EXPECT_NE(draws[0], draws[1]);
  EXPECT_NEAR(sum / (steps * columns), 64.0 / 255.0, 0.014);  // 4 standard deviations
}

TEST_P(OpsAligned, GatherRefusesWrongShapes) {
  Lab& d = lab();
  const Tensor bytes = d.make({2, 3}, DType::u8), state = d.put(some_state()), floats = d.make({2, 3});
  const auto gather = [&](const Tensor& source, const Tensor& input, Indexing indexing, const char* says) {
    expect_refused(says, [&] {
      d->run(GatherBatch{.source = source, .state = state, .indexing = indexing, .input = input, .target = bytes});
    });
  };
  gather(floats, floats, Indexing::shuffled, "gather_batch: source");
  gather(bytes, d.make({4, 3}), Indexing::shuffled, "gather_batch: target");
  gather(d.make({5, 3}, DType::u8), floats, Indexing::ring, "gather_batch: a ring of 5 rows");
}

}  // namespace
}  // namespace elbo::test

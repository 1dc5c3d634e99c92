// Division by a number that a launch knows: a multiplication and a shift, where the hardware's way takes twenty
// instructions.
#pragma once
#include <cuda_runtime.h>

#include <bit>
#include <cstdint>

#include "elbo/math/hd.h"

namespace elbo::kernels {

// n / d for n < 2^31 and 1 <= d < 2^31. T. Granlund, P. Montgomery, «Division by invariant integers using
// multiplication», PLDI 1994, theorem 4.2: with 2^l >= d and m = 2^(31 + l) / d, rounded up, it is n m / 2^(31 + l),
// rounded down.
class Divisor {
 public:
  explicit Divisor(std::int64_t d)
      : shift_(31u + static_cast<std::uint32_t>(std::bit_width(static_cast<std::uint64_t>(d) - 1))),
        multiplier_(static_cast<std::uint32_t>(((std::uint64_t{1} << shift_) + static_cast<std::uint64_t>(d) - 1) /
                                               static_cast<std::uint64_t>(d))) {}

  ELBO_HD std::uint32_t quotient(std::uint32_t n) const {
    return static_cast<std::uint32_t>(std::uint64_t{n} * multiplier_ >> shift_);
  }

 private:
  std::uint32_t shift_, multiplier_;
};

}  // namespace elbo::kernels

// Turns a choice that is known at run time into one known to the compiler, so that the formula of an inner loop has no
// branch left and the loop can be vectorised:
//
//   switch (activation) {
//     case Activation::relu: return f(constant<Activation::relu>);
//     ...
#pragma once
#include <type_traits>

namespace elbo::cpu {

template <auto choice>
inline constexpr std::integral_constant<decltype(choice), choice> constant{};

}  // namespace elbo::cpu

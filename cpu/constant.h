// Turns a choice that is known at run time into one known to the compiler, so that the formula of an
// inner loop has no branch left and the loop can be vectorised.
#pragma once
#include <type_traits>

namespace elbo {

// Calls f(std::integral_constant<Choice, choice>), where `choice` is one of Choices.
template <auto... Choices, class Choice, class F>
void with_constant(Choice choice, F&& f) {
  (void)((choice == Choices && (f(std::integral_constant<Choice, Choices>{}), true)) || ...);
}

}  // namespace elbo

// Kernels' names for people.
#pragma once
#include <string>

namespace elbo::cuda {

// The name of a kernel as the compiler mangled it, without return type and namespaces, and without the arguments of its
// template and its own: "gather_batch_kernel". What is not mangled stays as it is. cuBLAS calls CUTLASS's kernels
// Kernel2 or so and says in the template's argument which one it is; that argument is taken for the name.
std::string kernel_name(const char* symbol);

}  // namespace elbo::cuda

// What a dense layer needs beside its matrix products.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "elbo/types.h"

namespace elbo::kernels {

// y [rows, columns] = activation(y + bias [columns]), in place.
void bias_activation(float* y, const float* bias, std::int64_t rows, std::int64_t columns, Activation, cudaStream_t);

// dy [count] *= activation'(y [count]), in place; y is the activation's output.
void activation_backward(const float* y, float* dy, std::int64_t count, Activation, cudaStream_t);

// sum [columns] = the sum over the rows of x [rows, columns].
void column_sum(const float* x, float* sum, std::int64_t rows, std::int64_t columns, cudaStream_t);

}  // namespace elbo::kernels

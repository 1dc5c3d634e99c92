// What a dense layer needs beside its matrix products.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include "elbo/types.h"

namespace elbo::kernels {

// y [rows, columns] = activation(y + bias [columns]), in place.
void bias_activation(float* y, const float* bias, std::int64_t rows, std::int64_t columns, Activation, cudaStream_t);

// dx [count] = dy activation'(y [count]); y is the activation's output; dx may be dy.
void activation_backward(const float* y, const float* dy, float* dx, std::int64_t count, Activation, cudaStream_t);

// sum [count] = a + b; may be one of them.
void add(const float* a, const float* b, float* sum, std::int64_t count, cudaStream_t);

// sum [columns] = the sum over the rows of x [rows, columns].
void column_sum(const float* x, float* sum, std::int64_t rows, std::int64_t columns, cudaStream_t);

}  // namespace elbo::kernels

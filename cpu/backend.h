// The CPU device: oneDNN for matrix products, vectorised loops over the shared formulas for the rest.
#pragma once
#include <memory>
#include <string>

#include "elbo/backend.h"

namespace elbo {

// Throws Error where the CPU lacks what the options ask for.
std::unique_ptr<Backend> create_cpu_backend(const BackendOptions&);

// The name that the processor of this machine goes by.
const std::string& processor();

}  // namespace elbo

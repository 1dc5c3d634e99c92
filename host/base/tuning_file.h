// The algorithms of a GPU's matrix products, in a file and in tables.
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "elbo/backend.h"

namespace elbo {

// A tuning file: JSON, with the GPU, the library and the precision that it holds for, and a checksum, since the library
// is handed its algorithms as they stand. Reading it is strict; an Error names file, line and field.
std::string to_json(const Tuning&);
Tuning parse_tuning(const std::string& text, const std::string& file);
Tuning read_tuning(const std::string& path);

// What a device's products have, for machine.json and for figures: a list with an object each.
nlohmann::ordered_json to_json(const std::vector<ProductChoice>&);
void print_products(const std::vector<ProductChoice>&);

}  // namespace elbo

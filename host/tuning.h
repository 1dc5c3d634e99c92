// Which algorithms the matrix products of a GPU have: found by timing them, kept in a file, told of a run.
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

// ---- The tuning of a run: its folder keeps what it was begun with ------------------------------------------

// What `device`, which a run in `folder` is to use, is told: `given` (--tuning; empty: none), or where the run has
// begun (its machine.json is there), what it was begun with. An Error where one is given that it was not begun with:
// its weights would no longer be those of an uninterrupted run. Where the kept one is for another GPU or library, this
// device makes its own choices, and a note says so: elsewhere a run goes on with other roundings in any case.
// Returns the file that is in use; empty: none.
std::string use_tuning_of_run(Backend& device, const std::string& folder, const std::string& given);
// Keeps the file `given`, if any, in the folder.
void keep_tuning(const std::string& folder, const std::string& given);
// Says so where `file` is in use, and none of the products asked for so far are in it.
void note_unused_tuning(const Backend&, const std::string& file);

// ---- elbo tune ---------------------------------------------------------------------------------------------

struct TuneOptions {
  std::string spec;
  std::vector<std::string> overrides;  // --set
  std::string device = "auto";
  BackendOptions backend;
  std::string data;
  std::string out;       // the tuning file
  double seconds = 0.5;  // for each product
};

// Times the algorithms for every product of the spec's training step and of its evaluation, and writes the fastest of
// each to a file, for --tuning.
int tune(const TuneOptions&);

}  // namespace elbo

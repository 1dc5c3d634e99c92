// Which algorithms the matrix products of a GPU have: found by timing them, and kept with a run.
#pragma once
#include <string>
#include <vector>

#include "elbo/backend.h"

namespace elbo {

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

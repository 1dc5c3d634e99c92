// Options that several commands have, so that they are called alike and mean the same.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "elbo/backend.h"
#include "host/commands/command_line.h"

namespace elbo {

Option add_spec(Options&, std::string& spec, std::vector<std::string>& overrides);  // SPEC and --set; returns SPEC
void add_data(Options&, std::string& data);
void add_device(Options&, std::string& device, BackendOptions&);  // and --threads
// How a training step is done.
void add_no_graph(Options&, BackendOptions&);
void add_no_epilogues(Options&, BackendOptions&);
void add_tuning(Options&, BackendOptions&);
// How it is timed.
void add_warmup(Options&, std::optional<double>& seconds);

}  // namespace elbo

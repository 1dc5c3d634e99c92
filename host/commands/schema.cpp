// elbo schema
#include <fmt/format.h>

#include "host/commands/commands.h"
#include "host/spec/spec.h"

namespace elbo {

Action schema_command(Options&) {
  return [] {
    fmt::print("{}", spec_schema());
    return 0;
  };
}

}  // namespace elbo

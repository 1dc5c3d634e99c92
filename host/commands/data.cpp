// elbo data list, elbo data verify
#include <fmt/format.h>

#include <memory>
#include <string>

#include "host/commands/commands.h"
#include "host/commands/shared_options.h"
#include "host/data/catalog.h"
#include "host/data/dataset.h"

namespace elbo {

Action data_list_command(Options& options) {
  const auto data = std::make_shared<std::string>();
  add_data(options, *data);
  return [data] {
    fmt::print("{}", list_data(data_directories(*data)));
    return 0;
  };
}

Action data_verify_command(Options& options) {
  const auto data = std::make_shared<std::string>();
  add_data(options, *data);
  return [data] {
    bool good = false;
    fmt::print("{}", verify_data(data_directories(*data), good));
    return good ? 0 : 1;
  };
}

}  // namespace elbo

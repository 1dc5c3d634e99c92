// elbo devices
#include "host/base/devices.h"

#include <fmt/format.h>

#include "host/commands/commands.h"

namespace elbo {

Action devices_command(Options&) {
  return [] {
    for (const DeviceEntry& d : list_devices())
      fmt::print("{:<5} {:<14} {}\n", d.name, d.available ? "available" : "not available", d.description);
    return 0;
  };
}

}  // namespace elbo

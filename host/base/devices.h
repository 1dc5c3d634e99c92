// The one place that names concrete devices: `cpu` is built in, every other is a plug-in,
// libelbo_<name>.so, looked for in $ELBO_PLUGINS, beside the program, and in ../lib/elbo from there.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "elbo/backend.h"

namespace elbo {

struct OpenedDevice {
  std::unique_ptr<Backend> backend;
  std::string reason;  // why this one, where "auto" was asked for
};

// request: "auto" (a GPU if there is one, else the CPU), "cpu", "cuda", "cuda:1", or another plug-in's name.
// Throws Error saying what is missing. A GPU that is there and does not work is an Error with "auto", too.
OpenedDevice open_device(const std::string& request, const BackendOptions& = {});

// Throws Error where open_device() would not know the name. A GPU that is not there has one all the same.
void check_device_name(const std::string& request);

struct DeviceEntry {
  std::string name;
  bool available = false;
  std::string description;  // what it is, or why it is not available
};

// Every device that this build knows, in the order in which "auto" tries them.
std::vector<DeviceEntry> list_devices();

// The processor of this machine, whichever device is used.
const std::string& host_processor();

}  // namespace elbo

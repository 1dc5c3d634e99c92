// safetensors_copy FROM TO: reads a file and writes it again. For safetensors_test.py.
#include <cstdio>

#include "elbo/error.h"
#include "host/base/safetensors.h"

int main(int argc, char** argv) {
  try {
    elbo::require(argc == 3, "usage: safetensors_copy FROM TO");
    elbo::write_safetensors(argv[2], elbo::read_safetensors(argv[1]));
  } catch (const elbo::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}

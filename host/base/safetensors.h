// Reading and writing safetensors files (8 bytes of header length, a JSON header, the tensors' bytes).
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "elbo/tensor.h"

namespace elbo {

struct NamedTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  std::vector<std::byte> bytes;
};

struct TensorFile {
  std::vector<NamedTensor> tensors;             // when read: in the order of their bytes
  std::map<std::string, std::string> metadata;  // the header's "__metadata__", without the checksum

  const NamedTensor* find(const std::string& name) const;  // null where there is none
};

// Writes `path` so that at every moment it is either the old file or the whole new one: a temporary file
// beside it, fsync, rename, fsync of the folder. A SHA-256 of the whole file (its own digits counted as zeros) is
// added to the metadata as "sha256", and "checksum": "sha256" to say that it is there. Tensors of larger elements
// come first, so that all are aligned. Throws Error (path, reason: no space, ...) and leaves the old file untouched.
void write_safetensors(const std::string& path, const TensorFile& file);

// Reads and verifies a file. Throws Error naming the file and what is wrong: cut short, a lying header,
// overlapping or missing bytes, an unknown type, a checksum that does not match. Files without "sha256" (made by
// other programs) are accepted. Memory grows with the file's true size alone, whatever the header claims.
TensorFile read_safetensors(const std::string& path);

// The same, from bytes already in memory; `name` is used in errors. For tests and fuzzing.
TensorFile parse_safetensors(const std::byte* data, std::size_t size, const std::string& name);

}  // namespace elbo

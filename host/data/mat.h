// Matrices of bytes in MATLAB's level 5 MAT-file format («MAT-File Format», The MathWorks, chapter 1).
// Read are files of little-endian machines; a variable may be compressed.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace elbo {

struct MatMatrix {
  std::int64_t rows = 0, columns = 0;
  std::vector<std::uint8_t> values;  // column after column
};

// The variable `variable`. Throws an Error naming what is wrong: another format or version, no such variable,
// one that is not a real uint8 matrix, lengths that do not fit together.
MatMatrix read_mat(const std::string& path, const std::string& variable);

// The same, from bytes already in memory; `name` is used in errors. For tests and fuzzing.
MatMatrix parse_mat(std::span<const std::byte> file, const std::string& variable, const std::string& name);

}  // namespace elbo

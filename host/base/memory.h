// Memory for something large, asked for by name: Linux promises more than there is, and ends a process that believes
// it.
#pragma once
#include <cstdint>
#include <new>
#include <string>

#include "elbo/error.h"

namespace elbo {

// Bytes that this process may still take.
std::uint64_t usable_host_memory();
// "12.3 GB (12345678901 bytes)"
std::string bytes_text(std::uint64_t bytes);

// An Error that names `what` and both numbers where `bytes` are more than this process may use.
void require_memory(std::uint64_t bytes, const std::string& what);

// Room for n elements of a vector or string, or an Error that names `what`.
template <class Container>
void reserve_memory(Container& elements, std::uint64_t n, const std::string& what) {
  const std::uint64_t bytes = n * sizeof(typename Container::value_type);
  require_memory(bytes, what);
  try {
    elements.reserve(static_cast<std::size_t>(n));
  } catch (const std::bad_alloc&) {
    fail(what, ": there is no memory for its ", bytes, " bytes");
  }
}

}  // namespace elbo

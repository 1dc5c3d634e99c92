#include "cuda/kernel_name.h"

#include <cxxabi.h>

#include <cstdlib>
#include <memory>

namespace elbo::cuda {
namespace {

std::string without_brackets(const std::string& text) {
  std::string rest, open;
  for (const char c : text) {
    if (c == '<' || c == '(') {
      open += c;
    } else if (!open.empty()) {
      if (c == (open.back() == '<' ? '>' : ')')) open.pop_back();
    } else {
      rest += c;
    }
  }
  return rest;
}

}  // namespace

std::string kernel_name(const char* symbol) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> demangled(abi::__cxa_demangle(symbol, nullptr, nullptr, &status),
                                                         std::free);
  if (status != 0) return symbol;
  const std::string text = demangled.get(), name = without_brackets(text);
  if (const std::size_t begin = text.find('<'); name.find("cutlass::") != std::string::npos && begin != text.npos) {
    const std::string argument = text.substr(begin + 1, text.find_first_of("<,>", begin + 1) - begin - 1);
    if (argument.starts_with("cutlass") && argument.find(':') == std::string::npos) return argument;
  }
  return name.substr(name.find_last_of(": ") + 1);
}

}  // namespace elbo::cuda

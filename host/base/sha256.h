// SHA-256 (FIPS 180-4), computed by OpenSSL's libcrypto.
#pragma once
#include <cstddef>
#include <memory>
#include <string>

struct evp_md_ctx_st;

namespace elbo {

class Sha256 {
 public:
  Sha256();
  void update(const void* bytes, std::size_t n);
  // 64 lower-case hex digits of everything so far. Call once.
  std::string hex();

 private:
  struct Free {
    void operator()(evp_md_ctx_st*) const;
  };
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

}  // namespace elbo

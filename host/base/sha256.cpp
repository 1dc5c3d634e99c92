#include "host/base/sha256.h"

#include <openssl/evp.h>

#include "elbo/error.h"

namespace elbo {

void Sha256::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  require(context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1, "OpenSSL offers no SHA-256");
}

void Sha256::update(const void* bytes, std::size_t n) {
  require(EVP_DigestUpdate(context_.get(), bytes, n) == 1, "OpenSSL failed to compute a SHA-256");
}

std::string Sha256::hex() {
  unsigned char digest[32];
  require(EVP_DigestFinal_ex(context_.get(), digest, nullptr) == 1, "OpenSSL failed to compute a SHA-256");
  std::string text;
  for (const unsigned char byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

}  // namespace elbo

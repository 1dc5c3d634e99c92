// The CPU device's class. Its operations are in files of their own, named as in kernels/.
#pragma once
#include "cpu/gemm.h"
#include "cpu/team.h"
#include "elbo/backend.h"

namespace elbo::cpu {

// Null where there is no tensor.
template <class T>
T* address_of(const Tensor& t) {
  return t ? t.as<T>() : nullptr;
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const BackendOptions&);

  DeviceInfo info() const override;
  void synchronize() override {}

 protected:
  std::byte* do_allocate(std::size_t bytes, Memory) override;
  void do_free(std::byte*, Memory) noexcept override;
  void do_upload(void* to, const void* from, std::size_t bytes) override;
  void do_download(void* to, const void* from, std::size_t bytes) override;
  void do_copy(void* to, const void* from, std::size_t bytes) override;
  void do_fill(void* to, std::uint8_t byte, std::size_t bytes) override;

  // dense.cpp
  void do_run(const DenseForward&) override;
  void do_run(const DenseBackward&) override;
  void do_run(const ActivationBackward&) override;
  void do_run(const Add&) override;
  // gather.cpp
  void do_run(const GatherBatch&) override;
  // importance.cpp
  void do_run(const ImportanceBound&) override;
  // latent.cpp
  void do_run(const SampleLatent&) override;
  void do_run(const SampleLatentBackward&) override;
  // likelihood.cpp
  void do_run(const LikelihoodLoss&) override;
  // optimizer.cpp
  void do_run(const Accumulate&) override;
  void do_run(const OptimizerStep&) override;
  void do_run(const Advance&) override;

 private:
  Team team_;
  Gemm gemm_;
};

}  // namespace elbo::cpu

// The CPU device's class. Its operations are in files of their own, named as in kernels/.
#pragma once
#include "cpu/gemm.h"
#include "cpu/team.h"
#include "elbo/backend.h"

namespace elbo {

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

  void do_dense_forward(const DenseForward&) override;                   // layers.cpp
  void do_dense_backward(const DenseBackward&) override;                 // layers.cpp
  void do_gather_batch(const GatherBatch&) override;                     // gather.cpp
  void do_sample_latent(const SampleLatent&) override;                   // latent.cpp
  void do_sample_latent_backward(const SampleLatentBackward&) override;  // latent.cpp
  void do_likelihood(const LikelihoodLoss&) override;                    // likelihood.cpp

  // optimizer.cpp
  void do_accumulate(const Accumulate&) override;
  void do_optimizer_step(const OptimizerStep&) override;
  void do_advance(StepState*, const Schedule&, std::uint64_t* fault) override;

 private:
  Team team_;
  Gemm gemm_;
};

}  // namespace elbo

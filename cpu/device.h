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

  // layers.cpp
  void do_matmul(const Matmul&) override;
  void do_bias_activation(float* y, const float* bias, std::int64_t rows, std::int64_t columns, Activation) override;
  void do_activation_backward(const float* y, float* dy, std::int64_t count, Activation) override;
  void do_column_sum(const float* x, float* sum, std::int64_t rows, std::int64_t columns) override;

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

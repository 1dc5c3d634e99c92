# The kernels, by themselves: also compiled by a C++ compiler for the simulated device (tests/sim).
set(ELBO_KERNEL_SOURCES dense.cu gather.cu importance.cu latent.cu likelihood.cu optimizer.cu unfused.cu)
list(TRANSFORM ELBO_KERNEL_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)

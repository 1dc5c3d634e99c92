# The CUDA device without its matrix products and without CUPTI: the simulated device (tests/sim) has a gemm.cpp and a
# cupti.cpp of its own.
set(ELBO_CUDA_SOURCES backend.cpp graph.cpp ring.cpp nvml.cpp kernel_name.cpp plugin.cpp)
list(TRANSFORM ELBO_CUDA_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)

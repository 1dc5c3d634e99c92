# The CUDA device without its matrix products: the simulated device (tests/sim) has a gemm.cpp of its own.
set(ELBO_CUDA_SOURCES backend.cpp graph.cpp ring.cpp plugin.cpp)
list(TRANSFORM ELBO_CUDA_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)

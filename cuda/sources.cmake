# The CUDA device without its matrix products and without CUPTI: of these the simulated device (tests/sim) has its own,
# or what they are made from.
set(ELBO_CUDA_SOURCES backend.cpp graph.cpp ring.cpp tune.cpp nvml.cpp kernel_name.cpp plugin.cpp)
list(TRANSFORM ELBO_CUDA_SOURCES PREPEND ${CMAKE_CURRENT_LIST_DIR}/)

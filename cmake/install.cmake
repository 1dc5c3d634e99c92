# What is installed, and the relocatable package: bin/elbo, lib/elbo/ with the plug-ins, share/elbo/, and (in the
# package) every third-party library in lib/. See bundle.cmake for which those are.
set_target_properties(elbo PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
# DT_RPATH rather than DT_RUNPATH: it holds for the libraries of the libraries too, so that those in the package
# find each other.
target_link_options(elbo PRIVATE LINKER:--disable-new-dtags)
install(TARGETS elbo RUNTIME DESTINATION bin)

if(TARGET elbo_cuda)
  # CUDA's own libraries are those of the machine. DT_RUNPATH here, so that LD_LIBRARY_PATH goes first.
  set_target_properties(elbo_cuda PROPERTIES
    INSTALL_RPATH "$ORIGIN/..:/usr/local/cuda/lib64:/usr/local/cuda/lib:/usr/local/cuda/extras/CUPTI/lib64")
  install(TARGETS elbo_cuda LIBRARY DESTINATION lib/elbo)
endif()

# What is installed, and no more: to pack it does not take the other tests.
set(CMAKE_SKIP_INSTALL_ALL_DEPENDENCY ON)
add_custom_target(package_contents DEPENDS elbo)
if(TARGET elbo_cuda)
  add_dependencies(package_contents elbo_cuda)
endif()

# What tools/gpu_check.sh needs, so that a package can be checked on a machine that has nothing but a GPU.
if(ELBO_TESTS)
  foreach(test ops_test trainer_test)
    set_target_properties(${test} PROPERTIES INSTALL_RPATH "$ORIGIN/../..")
    target_link_options(${test} PRIVATE LINKER:--disable-new-dtags)
    install(TARGETS ${test} RUNTIME DESTINATION lib/elbo/tests)
    add_dependencies(package_contents ${test})
  endforeach()
  if(TARGET ceilings)  # CUDA's libraries as the plug-in has them, the C++ library as the tests
    set_target_properties(ceilings PROPERTIES BUILD_WITH_INSTALL_RPATH ON
      INSTALL_RPATH "$ORIGIN/../..:/usr/local/cuda/lib64:/usr/local/cuda/lib")
    target_link_options(ceilings PRIVATE LINKER:--enable-new-dtags)
    install(TARGETS ceilings RUNTIME DESTINATION lib/elbo/tests)
    add_dependencies(package_contents ceilings)
  endif()
endif()
install(PROGRAMS ${PROJECT_SOURCE_DIR}/tools/gpu_check.sh DESTINATION share/elbo/tools)
install(FILES ${PROJECT_SOURCE_DIR}/tools/gpu_check.py ${PROJECT_SOURCE_DIR}/tools/gpu_summary.py
        ${PROJECT_SOURCE_DIR}/tools/elbo_spec.py ${PROJECT_SOURCE_DIR}/tools/elbo_torch.py
        DESTINATION share/elbo/tools)
install(FILES ${PROJECT_SOURCE_DIR}/tools/kernels/ncu_table.py DESTINATION share/elbo/tools/kernels)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/tools/compare DESTINATION share/elbo/tools
        FILES_MATCHING PATTERN "*.py" PATTERN "*.json" PATTERN "__pycache__" EXCLUDE)
file(GLOB elbos RELATIVE ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/results/cpu-*/*/elbo)  # what a GPU has to reach
foreach(folder ${elbos})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder}/ DESTINATION share/elbo/${folder}
          FILES_MATCHING PATTERN "*-elbo.json")
endforeach()

install(DIRECTORY ${PROJECT_SOURCE_DIR}/experiments DESTINATION share/elbo FILES_MATCHING PATTERN "*.json")
find_file(ELBO_FONT_FILE DejaVuSans.ttf PATH_SUFFIXES fonts/truetype/dejavu fonts/dejavu fonts/TTF
          PATHS /usr/share /usr/local/share REQUIRED)
install(FILES ${ELBO_FONT_FILE} DESTINATION share/elbo)
install(FILES README.md LICENSE docs/first-gpu.md DESTINATION share/doc/elbo)

set(CPACK_GENERATOR TXZ)
set(CPACK_PACKAGE_FILE_NAME elbo-${PROJECT_VERSION}-linux-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_STRIP_FILES ON)
set(CPACK_THREADS 0)
set(CPACK_PRE_BUILD_SCRIPTS ${CMAKE_CURRENT_LIST_DIR}/bundle.cmake)
include(CPack)

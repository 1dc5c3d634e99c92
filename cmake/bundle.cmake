# Run by CPack on the installed tree before it is packed: copies every shared library that the program needs into
# lib/, and its licence into share/doc/elbo/licenses/. Left out are the C library, which belongs to the kernel and
# the loader of the machine, and CUDA's libraries, which belong to its driver.
set(root ${CPACK_TEMPORARY_INSTALL_DIRECTORY})
set(c_library "^(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|mvec|anl|nss_.*))\\.so")
set(cuda "^lib(cuda|cudart|cublas|cublasLt|cudnn|nv).*\\.so")

file(GLOB programs ${root}/bin/* ${root}/lib/elbo/tests/*)
file(GLOB plugins ${root}/lib/elbo/*.so)
file(GET_RUNTIME_DEPENDENCIES
  EXECUTABLES ${programs} LIBRARIES ${plugins}
  RESOLVED_DEPENDENCIES_VAR libraries
  UNRESOLVED_DEPENDENCIES_VAR missing
  PRE_EXCLUDE_REGEXES ${c_library} ${cuda})
if(missing)
  message(FATAL_ERROR "the package would lack these libraries: ${missing}")
endif()

file(MAKE_DIRECTORY ${root}/share/doc/elbo/licenses)
foreach(library IN LISTS libraries)
  file(COPY ${library} DESTINATION ${root}/lib FOLLOW_SYMLINK_CHAIN)
  file(REAL_PATH ${library} real)
  # dpkg knows a file by the name it was packed under, which on a merged /usr may lack the /usr.
  string(REGEX REPLACE "^/usr/" "/" without_usr ${real})
  execute_process(COMMAND dpkg-query -S ${real} ${without_usr} OUTPUT_VARIABLE owner ERROR_QUIET)
  if(owner MATCHES "^([^:\n]+):")
    file(COPY_FILE /usr/share/doc/${CMAKE_MATCH_1}/copyright ${root}/share/doc/elbo/licenses/${CMAKE_MATCH_1})
  else()
    message(WARNING "${real} belongs to no Debian package: its licence is not in the package")
  endif()
endforeach()

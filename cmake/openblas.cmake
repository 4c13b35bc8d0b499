# OpenBLAS with OpenMP threads, so that its threads and ours are the same pool. Debian keeps several builds side by side
# and lets an "alternative" choose; we link the OpenMP one by path.
find_path(OPENBLAS_INCLUDE cblas.h HINTS /usr/include/${CMAKE_LIBRARY_ARCHITECTURE}/openblas-openmp
          PATH_SUFFIXES openblas openblas-openmp REQUIRED)
find_library(OPENBLAS_LIBRARY NAMES openblas
             HINTS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE}/openblas-openmp NO_CACHE)
if(NOT OPENBLAS_LIBRARY)
  message(FATAL_ERROR "OpenBLAS was not found; on Debian or Ubuntu: apt-get install libopenblas-openmp-dev")
endif()
add_library(OpenBLAS::OpenBLAS UNKNOWN IMPORTED)
set_target_properties(OpenBLAS::OpenBLAS PROPERTIES IMPORTED_LOCATION ${OPENBLAS_LIBRARY}
                      INTERFACE_INCLUDE_DIRECTORIES ${OPENBLAS_INCLUDE})

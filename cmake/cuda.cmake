# The CUDA backend, lorad_cuda.so beside the program, which opens it when a GPU is asked for or there is one. Built where the
# CUDA toolkit (12.8 or later), cuDNN 9.8 or later and NCCL 2.20 or later are found, or as LORAD_CUDA says: auto, on (missing
# parts are an error) or off. cuDNN itself is opened when a device is, from 9.18.1 on: sdpa_graph_cudnn.c.
#
# LORAD_CUDA_ARCHITECTURES: "80-real;90a-real;100a-real;80-virtual" covers A100, H100/H200 and B200, and the last others by
# compiling at the first start; "native" is the GPU at hand alone, and quicker.
set(LORAD_CUDA auto CACHE STRING "Build the CUDA backend: auto, on or off")
set(LORAD_CUDA_ARCHITECTURES "80-real;90a-real;100a-real;80-virtual" CACHE STRING "GPUs to compile for")

set(LORAD_HAVE_CUDA OFF)
if(NOT LORAD_CUDA STREQUAL "off")
  find_program(LORAD_NVCC nvcc HINTS /usr/local/cuda/bin ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin)
  set(missing "")
  if(LORAD_NVCC)
    get_filename_component(cuda_root ${LORAD_NVCC} REALPATH)
    get_filename_component(cuda_root ${cuda_root}/../.. ABSOLUTE)
    find_path(LORAD_CUDNN_INCLUDE cudnn.h HINTS ${cuda_root}/include PATH_SUFFIXES include)
    find_path(LORAD_NCCL_INCLUDE nccl.h HINTS ${cuda_root}/include PATH_SUFFIXES include)
    find_library(LORAD_CUDNN_LIBRARY cudnn HINTS ${cuda_root}/lib64)
    find_library(LORAD_NCCL_LIBRARY nccl HINTS ${cuda_root}/lib64)
    if(LORAD_CUDNN_INCLUDE AND EXISTS ${LORAD_CUDNN_INCLUDE}/cudnn_version.h)
      file(STRINGS ${LORAD_CUDNN_INCLUDE}/cudnn_version.h cudnn_version REGEX "define CUDNN_(MAJOR|MINOR) ")
      string(REGEX REPLACE "[^0-9]*([0-9]+)[^0-9]+([0-9]+).*" "\\1.\\2" cudnn_version "${cudnn_version}")
      if(cudnn_version VERSION_LESS 9.8)
        string(APPEND missing " cuDNN 9.8 (this is ${cudnn_version})")
      endif()
    endif()
    find_package(CUDAToolkit 12.8 QUIET)
    if(NOT CUDAToolkit_FOUND)
      string(APPEND missing " CUDA toolkit 12.8 or later")
    endif()
    foreach(part CUDNN_INCLUDE CUDNN_LIBRARY NCCL_INCLUDE NCCL_LIBRARY)
      if(NOT LORAD_${part})
        string(APPEND missing " ${part}")
      endif()
    endforeach()
  else()
    set(missing " nvcc")
  endif()
  if(missing STREQUAL "")
    set(LORAD_HAVE_CUDA ON)
  elseif(LORAD_CUDA STREQUAL "on")
    message(FATAL_ERROR "LORAD_CUDA is on, but these were not found:${missing}")
  else()
    message(STATUS "without the CUDA backend: not found:${missing}")
  endif()
endif()

if(LORAD_HAVE_CUDA)
  set(CMAKE_CUDA_COMPILER ${LORAD_NVCC})
  set(CMAKE_CUDA_ARCHITECTURES ${LORAD_CUDA_ARCHITECTURES})
  enable_language(CUDA)
  message(STATUS "with the CUDA backend: CUDA ${CUDAToolkit_VERSION}, for ${LORAD_CUDA_ARCHITECTURES}")
  file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.c ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu
       ${CMAKE_SOURCE_DIR}/comm/nccl/*.c)
  add_library(lorad_cuda MODULE ${cuda_sources})
  # functions of base and kernels are the program's, which opens the library
  target_include_directories(lorad_cuda PRIVATE ${CMAKE_BINARY_DIR}/include/base ${CMAKE_BINARY_DIR}/include/kernels
                             ${CMAKE_BINARY_DIR}/include/comm ${CMAKE_SOURCE_DIR}/kernels/cuda/native)
  target_include_directories(lorad_cuda SYSTEM PRIVATE ${LORAD_CUDNN_INCLUDE} ${LORAD_NCCL_INCLUDE})
  target_link_libraries(lorad_cuda PRIVATE CUDA::cudart CUDA::cublasLt ${LORAD_NCCL_LIBRARY} Threads::Threads m
                        ${CMAKE_DL_LIBS})
  get_filename_component(cudnn_folder ${LORAD_CUDNN_LIBRARY} DIRECTORY)
  set_target_properties(lorad_cuda PROPERTIES PREFIX "" LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}
                        BUILD_RPATH ${cudnn_folder}
                        C_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden CUDA_STANDARD 17
                        CUDA_STANDARD_REQUIRED ON)
  target_compile_options(lorad_cuda PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=-Wall,-Wextra,-fno-exceptions,-fno-rtti,-fno-threadsafe-statics>
    $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${LORAD_WERROR}>>:-Werror=all-warnings>)
endif()

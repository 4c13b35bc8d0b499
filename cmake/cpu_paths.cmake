# Files of kernels/cpu that use instructions beyond the baseline are compiled for them here and entered only after a
# run-time check (kernels/cpu/cpu_features.h). Their names end in the instruction set.
file(GLOB lorad_avx512_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cpu/*_avx512.c)
file(GLOB lorad_avx512bf16_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cpu/*_avx512bf16.c)
file(GLOB lorad_amx_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cpu/*_amx.c)
file(GLOB lorad_avx2_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cpu/*_avx2.c)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_source_files_properties(${lorad_avx2_sources} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
  set_source_files_properties(${lorad_avx512_sources} PROPERTIES
                              COMPILE_OPTIONS "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mfma;-mprefer-vector-width=512")
  set_source_files_properties(${lorad_avx512bf16_sources} PROPERTIES
                              COMPILE_OPTIONS "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512bf16;-mfma")
  set_source_files_properties(${lorad_amx_sources} PROPERTIES
                              COMPILE_OPTIONS "-mavx512f;-mavx512bw;-mavx512vl;-mavx512dq;-mavx512bf16;-mamx-tile;-mamx-bf16;-mfma")
endif()

# The operations are plain vector code (kernels/cpu/vec.h), compiled once for every instruction path; the CPU device chooses
# one when it is opened. The path's name becomes part of the functions' names (kernels/cpu/cpu_impl.h).
set(lorad_path_files embed.c norm.c rope.c attention.c swiglu.c elementwise.c loss.c optim.c fixed.c path.c)
list(TRANSFORM lorad_path_files PREPEND ${CMAKE_SOURCE_DIR}/kernels/cpu/)
set_source_files_properties(${lorad_path_files} PROPERTIES COMPILE_OPTIONS "-Wno-psabi")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set(lorad_path_flags_avx2 -mavx2 -mfma -mf16c)
  set(lorad_path_flags_avx512 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx2 -mfma -mf16c -mprefer-vector-width=512)
  foreach(path avx2 avx512)
    add_library(lorad_kernels_${path} OBJECT ${lorad_path_files})
    target_compile_definitions(lorad_kernels_${path} PRIVATE CPU_PATH=${path})
    target_compile_options(lorad_kernels_${path} PRIVATE ${lorad_path_flags_${path}})
    target_include_directories(lorad_kernels_${path} PRIVATE ${CMAKE_BINARY_DIR}/include/kernels)
    target_link_libraries(lorad_kernels_${path} PRIVATE lorad_base OpenMP::OpenMP_C)
    target_sources(lorad_kernels PRIVATE $<TARGET_OBJECTS:lorad_kernels_${path}>)
  endforeach()
endif()

# The CUDA compiler, the architectures, and the compile gate: every .cu of the kernels compiled for real GPUs on a machine
# that has none, with all warnings as errors, failing on register spills.
set(ADJOINT_CUDA_ARCHITECTURES "75-real;80-real;86-real;89-real;90-real;100-real;120" CACHE STRING
  "GPU architectures of a release build, as CMAKE_CUDA_ARCHITECTURES: N-real, N-virtual, or N for both")
set(ADJOINT_CUDA_GATE_ARCHITECTURES "80-real;90-real" CACHE STRING "GPU architectures of the compile gate")
set(ADJOINT_NVCC_FLAGS -std=c++20 --expt-relaxed-constexpr -Werror all-warnings)

find_program(ADJOINT_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
if(ADJOINT_NVCC)
  message(STATUS "CUDA compiler: ${ADJOINT_NVCC}")
else()
  message(STATUS "CUDA compiler: none found; the kernels are checked on the CPU only")
endif()

# "80-real;120" becomes -gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_120,code=[compute_120,sm_120].
function(adjoint_gencode out architectures)
  set(flags)
  foreach(architecture ${architectures})
    string(REGEX MATCH "^([0-9]+[a-z]?)(-real|-virtual)?$" matched "${architecture}")
    if(NOT matched)
      message(FATAL_ERROR "GPU architecture \"${architecture}\": expected N, N-real or N-virtual")
    endif()
    set(n ${CMAKE_MATCH_1})
    if(CMAKE_MATCH_2 STREQUAL "-real")
      list(APPEND flags -gencode=arch=compute_${n},code=sm_${n})
    elseif(CMAKE_MATCH_2 STREQUAL "-virtual")
      list(APPEND flags -gencode=arch=compute_${n},code=compute_${n})
    else()
      list(APPEND flags -gencode=arch=compute_${n},code=[compute_${n},sm_${n}])
    endif()
  endforeach()
  set(${out} ${flags} PARENT_SCOPE)
endfunction()

# The command that compiles one source for the gate; it fails on errors, warnings and spills, and prints registers.
function(adjoint_gate_command out source)
  adjoint_gencode(gencode "${ADJOINT_CUDA_GATE_ARCHITECTURES}")
  set(flags ${ADJOINT_NVCC_FLAGS} ${gencode})
  string(REPLACE ";" "|" flags "${flags}")
  get_filename_component(name ${source} NAME_WE)
  set(${out} ${CMAKE_COMMAND} -DNVCC=${ADJOINT_NVCC} -DFLAGS=${flags} -DSOURCE=${source} -DROOT=${PROJECT_SOURCE_DIR}
    -DOUTPUT=${PROJECT_BINARY_DIR}/cuda-compile/${name} -P ${PROJECT_SOURCE_DIR}/cmake/CudaCompile.cmake PARENT_SCOPE)
endfunction()

# Adds the target cuda-compile, which compiles what has changed, and the test of that name. Without nvcc the test is
# there and reports itself skipped.
function(adjoint_cuda_compile_gate)
  if(NOT ADJOINT_NVCC)
    add_test(NAME cuda-compile COMMAND ${CMAKE_COMMAND} -E echo "SKIPPED: no nvcc, so no kernel was compiled for a GPU")
    set_tests_properties(cuda-compile PROPERTIES SKIP_REGULAR_EXPRESSION "SKIPPED: " LABELS cuda)
    return()
  endif()
  set(reports)
  file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/cuda-compile)
  foreach(source ${ARGN})
    get_filename_component(name ${source} NAME_WE)
    set(report ${PROJECT_BINARY_DIR}/cuda-compile/${name}.txt)
    adjoint_gate_command(command ${source})
    add_custom_command(OUTPUT ${report} COMMAND ${command} VERBATIM
      DEPENDS ${source} ${PROJECT_SOURCE_DIR}/cmake/CudaCompile.cmake
      DEPFILE ${PROJECT_BINARY_DIR}/cuda-compile/${name}.d COMMENT "Compiling ${name}.cu for GPUs")
    list(APPEND reports ${report})
  endforeach()
  add_custom_target(cuda-compile DEPENDS ${reports})
  add_test(NAME cuda-compile COMMAND ${CMAKE_COMMAND} --build ${PROJECT_BINARY_DIR} --target cuda-compile)
  # It may have every kernel to compile; and two builds at a time would fight over the build folder.
  set_tests_properties(cuda-compile PROPERTIES TIMEOUT 1800 LABELS cuda RESOURCE_LOCK build-folder)
endfunction()

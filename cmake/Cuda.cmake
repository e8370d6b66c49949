# The CUDA backend: every .cu of the kernels compiled by nvcc, with all warnings as errors, refusing register spills and
# more registers or shared memory than cmake/cuda_budgets.txt allows. It needs a toolkit and no GPU; what it makes is the
# backend that programs link, so what passes here is what runs.
set(ADJOINT_CUDA AUTO CACHE STRING "Build the CUDA backend: ON, OFF, or AUTO for where there is a toolkit")
set(ADJOINT_CUDA_ARCHITECTURES "80-real;90" CACHE STRING
  "GPU architectures, as CMAKE_CUDA_ARCHITECTURES: N-real, N-virtual, or N for both; all: those of a release")
if(ADJOINT_CUDA_ARCHITECTURES STREQUAL "all")
  # Hides the cache's value from here on, and keeps the list where scripts find it.
  set(ADJOINT_CUDA_ARCHITECTURES "75-real;80-real;86-real;89-real;90-real;100-real;120")
endif()
set(ADJOINT_CUDA_ARCHITECTURES_BUILT "${ADJOINT_CUDA_ARCHITECTURES}" CACHE INTERNAL "")
set(ADJOINT_NVCC_FLAGS -std=c++20 --expt-relaxed-constexpr -O2 -DNDEBUG -Xcompiler=-fPIC -Werror all-warnings)

find_program(ADJOINT_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
set(ADJOINT_HAS_CUDA OFF)
if(ADJOINT_CUDA STREQUAL OFF)
  message(STATUS "CUDA backend: off")
elseif(ADJOINT_NVCC)
  get_filename_component(cuda_root ${ADJOINT_NVCC} REALPATH)
  get_filename_component(cuda_root ${cuda_root}/../.. ABSOLUTE)
  find_path(ADJOINT_CUDA_INCLUDE cuda_runtime_api.h HINTS ${cuda_root}/include)
  find_library(ADJOINT_CUDART cudart_static HINTS ${cuda_root}/lib64 ${cuda_root}/lib)
  if(ADJOINT_CUDA_INCLUDE AND ADJOINT_CUDART)
    set(ADJOINT_HAS_CUDA ON)
  endif()
endif()
if(ADJOINT_HAS_CUDA)
  message(STATUS "CUDA backend: ${ADJOINT_NVCC}, for ${ADJOINT_CUDA_ARCHITECTURES}")
elseif(ADJOINT_CUDA STREQUAL ON)
  message(FATAL_ERROR "ADJOINT_CUDA is ON, but no CUDA toolkit was found; expected nvcc with cudart; set CUDA_HOME")
elseif(ADJOINT_CUDA STREQUAL AUTO)
  message(STATUS "CUDA backend: left out, no toolkit found; the kernels are checked on the CPU only")
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

# The command that compiles one source; it fails on errors, warnings, spills and broken budgets, and prints registers.
function(adjoint_cuda_command out source)
  adjoint_gencode(gencode "${ADJOINT_CUDA_ARCHITECTURES}")
  set(flags ${ADJOINT_NVCC_FLAGS} ${gencode})
  string(REPLACE ";" "|" flags "${flags}")
  get_filename_component(name ${source} NAME_WE)
  set(${out} ${CMAKE_COMMAND} -DNVCC=${ADJOINT_NVCC} -DFLAGS=${flags} -DSOURCE=${source} -DROOT=${PROJECT_SOURCE_DIR}
    -DOUTPUT=${PROJECT_BINARY_DIR}/cuda/${name} -P ${PROJECT_SOURCE_DIR}/cmake/CudaCompile.cmake PARENT_SCOPE)
endfunction()

# Compiles the sources; `out` is the list of their objects.
function(adjoint_cuda_objects out)
  set(objects)
  file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/cuda)
  foreach(source ${ARGN})
    get_filename_component(name ${source} NAME_WE)
    set(object ${PROJECT_BINARY_DIR}/cuda/${name}.o)
    adjoint_cuda_command(command ${source})
    add_custom_command(OUTPUT ${object} BYPRODUCTS ${PROJECT_BINARY_DIR}/cuda/${name}.txt COMMAND ${command} VERBATIM
      DEPENDS ${source} ${PROJECT_SOURCE_DIR}/cmake/CudaCompile.cmake ${PROJECT_SOURCE_DIR}/cmake/cuda_budgets.txt
      DEPFILE ${PROJECT_BINARY_DIR}/cuda/${name}.d COMMENT "Compiling ${name}.cu for GPUs")
    list(APPEND objects ${object})
  endforeach()
  set(${out} ${objects} PARENT_SCOPE)
endfunction()

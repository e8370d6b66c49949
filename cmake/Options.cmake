# Every switch of the build, and the compile flags that follow.
option(ADJOINT_BUILD_TESTS "Build the tests" ON)
option(ADJOINT_BUILD_BENCH "Build the benchmarks" ON)
option(ADJOINT_WERROR "Treat warnings as errors" OFF)
set(ADJOINT_SANITIZE "" CACHE STRING "Sanitizers: address,undefined or thread")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()
# -O3 is for the kernels; elsewhere it only costs compile time.
set(CMAKE_CXX_FLAGS_RELEASE "-O2 -DNDEBUG")
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bin)

# All arithmetic is stated in the source: no compiler makes one rounding of a multiplication and an addition by itself
# (-ffp-contract=off below). Members left out of a designated initializer have their default: that is how kernel calls and options are written.
add_library(adjoint_flags INTERFACE)
target_include_directories(adjoint_flags INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
# GCC 12 reports overlapping copies inside std::string's own operator+ (its bug 105651): -Wno-restrict.
target_compile_options(adjoint_flags INTERFACE
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-psabi -Wno-missing-field-initializers>
  $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${ADJOINT_WERROR}>>:-Werror>)
if(ADJOINT_SANITIZE)
  target_compile_options(adjoint_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${ADJOINT_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer>)
  target_link_options(adjoint_flags INTERFACE -fsanitize=${ADJOINT_SANITIZE})
endif()

# Levels of processor that the CPU kernels are compiled for; the same list as in kernels/base/cpu_level.h. What includes
# kernels/cpu links adjoint_level_….
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  set(ADJOINT_CPU_LEVELS x86-64-v4 x86-64-v3 x86-64-v2)
else()
  set(ADJOINT_CPU_LEVELS baseline)
endif()
foreach(level ${ADJOINT_CPU_LEVELS})
  string(MAKE_C_IDENTIFIER ${level} name)
  add_library(adjoint_level_${name} INTERFACE)
  target_compile_definitions(adjoint_level_${name} INTERFACE ADJOINT_CPU_LEVEL=${name})
  target_compile_options(adjoint_level_${name} INTERFACE -fno-math-errno -fno-trapping-math)
  if(NOT level STREQUAL "x86-64-v2")  # which is there to run at all: -O3 would compile it half as long again
    target_compile_options(adjoint_level_${name} INTERFACE $<$<CONFIG:Release>:-O3>)
  endif()
  if(NOT level STREQUAL "baseline")
    target_compile_options(adjoint_level_${name} INTERFACE -march=${level})
  endif()
endforeach()
# Without it GCC keeps to 256 bits.
if(TARGET adjoint_level_x86_64_v4)
  target_compile_options(adjoint_level_x86_64_v4 INTERFACE -mprefer-vector-width=512)
endif()

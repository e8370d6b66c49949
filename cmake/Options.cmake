# Every switch of the build, and the compile flags that follow.
option(ADJOINT_BUILD_TESTS "Build the tests" ON)
option(ADJOINT_BUILD_BENCH "Build the benchmarks" ON)
option(ADJOINT_WERROR "Treat warnings as errors" OFF)
set(ADJOINT_CPU_ARCH "native" CACHE STRING "-march of the CPU kernels: native, x86-64-v3 (AVX2), x86-64-v4 (AVX-512) …")
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

# Members left out of a designated initializer have their default: that is how kernel calls and options are written.
add_library(adjoint_flags INTERFACE)
target_include_directories(adjoint_flags INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>)
# GCC 12 reports overlapping copies inside std::string's own operator+ (its bug 105651): -Wno-restrict.
target_compile_options(adjoint_flags INTERFACE
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-psabi -Wno-missing-field-initializers>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${ADJOINT_WERROR}>>:-Werror>)
if(ADJOINT_SANITIZE)
  target_compile_options(adjoint_flags INTERFACE
    $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${ADJOINT_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer>)
  target_link_options(adjoint_flags INTERFACE -fsanitize=${ADJOINT_SANITIZE})
endif()

# Compiles one CUDA source and reads what the assembler says about it. Called by the build, see Cuda.cmake:
#   cmake -DNVCC=… -DFLAGS=a|b|c -DSOURCE=x.cu -DROOT=… -DOUTPUT=…/x -P CudaCompile.cmake
# Writes OUTPUT.o, OUTPUT.d (what it depends on) and, if all is well, OUTPUT.txt (registers and shared memory by kernel).
string(REPLACE "|" ";" flags "${FLAGS}")
execute_process(COMMAND ${NVCC} ${flags} -Xptxas=-v -I${ROOT} -MD -MF ${OUTPUT}.d -MT ${OUTPUT}.txt -c ${SOURCE}
  -o ${OUTPUT}.o OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE failed)
if(failed)
  message(FATAL_ERROR "${SOURCE} does not compile:\n${said}")
endif()

# Four lines a kernel: "Compiling entry function 'NAME' for 'sm_80'", "Function properties for …", "0 bytes stack frame,
# 0 bytes spill stores, …", "Used 40 registers, …, 512 bytes smem, …". Semicolons would split CMake's lists.
string(REPLACE ";" "," said "${said}")
string(REGEX MATCHALL "Compiling entry function '[^']+' for '[^']+'[^']*Used [0-9]+ registers[^\n]*" kernels "${said}")
find_program(cxxfilt c++filt)
set(report "")
set(spilled "")
foreach(kernel ${kernels})
  string(REGEX MATCH "'([^']+)' for '([^']+)'" _ "${kernel}")
  set(name ${CMAKE_MATCH_1})
  set(architecture ${CMAKE_MATCH_2})
  string(REGEX MATCH "Used ([0-9]+) registers" _ "${kernel}")
  set(registers ${CMAKE_MATCH_1})
  set(shared 0)
  if(kernel MATCHES "([0-9]+) bytes smem")
    set(shared ${CMAKE_MATCH_1})
  endif()
  if(cxxfilt)
    execute_process(COMMAND ${cxxfilt} ${name} OUTPUT_VARIABLE name OUTPUT_STRIP_TRAILING_WHITESPACE)
  endif()
  set(line "${architecture}  ${registers} registers  ${shared} bytes static shared memory  ${name}")
  string(APPEND report "${line}\n")
  # f64 is there for gradient checks: what it spills costs nobody anything.
  if(kernel MATCHES "([1-9][0-9]*) bytes spill stores" AND NOT line MATCHES "<double[,>]")
    string(APPEND spilled "${CMAKE_MATCH_1} bytes spilled  ${line}\n")
  endif()
endforeach()
if(spilled)
  message(FATAL_ERROR "${SOURCE} has kernels that spill registers:\n${spilled}")
endif()
if(NOT kernels AND said MATCHES "spill")
  message(FATAL_ERROR "${SOURCE}: the assembler's report is in an unknown form:\n${said}")
endif()
file(WRITE ${OUTPUT}.txt "${report}")

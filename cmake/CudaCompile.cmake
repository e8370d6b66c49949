# Compiles one CUDA source and reads what the assembler says about it. Called by the build, see Cuda.cmake:
#   cmake -DNVCC=… -DFLAGS=a|b|c -DSOURCE=x.cu -DROOT=… -DOUTPUT=…/x -P CudaCompile.cmake
# Writes OUTPUT.o, OUTPUT.d (what it depends on) and, if all is well, OUTPUT.txt (registers and shared memory by kernel).
# cuda_budgets.txt, beside this file: lines "REGEX REGISTERS BYTES" for the kernels whose registers and static shared
# memory must not grow unnoticed on sm_80 and sm_90. Other architectures' assemblers choose otherwise; there spills count.
file(STRINGS ${CMAKE_CURRENT_LIST_DIR}/cuda_budgets.txt budgets REGEX "^[^#]")
string(REPLACE "|" ";" flags "${FLAGS}")
execute_process(COMMAND ${NVCC} ${flags} -Xptxas=-v -I${ROOT} -MD -MF ${OUTPUT}.d -MT ${OUTPUT}.o -c ${SOURCE}
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
  # And two registers on sm_75, which has half the threads of others, cost less than a bound on all for its sake.
  if(NOT line MATCHES "<double[,>]" AND kernel MATCHES "([1-9][0-9]*) bytes spill stores")
    set(bytes ${CMAKE_MATCH_1})  # parentheses in the condition would be evaluated before the match
    if(NOT (architecture STREQUAL "sm_75" AND bytes LESS_EQUAL 8))
      string(APPEND spilled "${bytes} bytes spilled  ${line}\n")
    endif()
  endif()
  if(NOT architecture MATCHES "^sm_(80|90)$")
    continue()
  endif()
  foreach(budget ${budgets})
    string(REGEX MATCH "^([^ ]+) +([0-9]+) +([0-9]+)$" _ "${budget}")
    set(most_registers ${CMAKE_MATCH_2})
    set(most_shared ${CMAKE_MATCH_3})
    if(name MATCHES "${CMAKE_MATCH_1}" AND (registers GREATER most_registers OR shared GREATER most_shared))
      string(APPEND spilled "over the budget of ${most_registers} registers, ${most_shared} bytes  ${line}\n")
    endif()
  endforeach()
endforeach()
if(spilled)
  file(REMOVE ${OUTPUT}.o)
  message(FATAL_ERROR "${SOURCE} has kernels that spill registers or are over their budget:\n${spilled}")
endif()
if(NOT kernels AND said MATCHES "spill")
  file(REMOVE ${OUTPUT}.o)
  message(FATAL_ERROR "${SOURCE}: the assembler's report is in an unknown form:\n${said}")
endif()
file(WRITE ${OUTPUT}.txt "${report}")

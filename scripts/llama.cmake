# Included by CMake right after llama.cpp's project(), where it is built for this machine.
#
# Before 12.4 and 13.3, GCC forgets what the tile registers are to be configured with (its bug
# 114098): on a processor that has AMX, the first multiplication then ends the process. The other
# kernels are taken there. (ggml asks for -march=native after all of our options, which would have
# the last word over -mno-amx-int8; a macro that is undefined stays so.)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13.3)
    add_compile_options(-U__AMX_INT8__)
endif()

# Included by CMake right after llama.cpp's project(), where it is built for this machine: leaves out
# what is worse there than what it would replace. (ggml asks for -march=native after all of our
# options, which would have the last word over -mno-...; a macro that is undefined stays so.)

# Its arithmetic of 16-bit floats takes 128 numbers at a time, and what is left over one by one:
# attention in heads of 64, as small models have, is left over altogether. With a thousand tokens
# before it, SmolLM2 takes 1.6 times as long for a token, and 2.5 times for a dozen together.
if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
    add_compile_options(-U__AVX512FP16__)
endif()

# Before 12.4 and 13.3, GCC forgets what the tile registers are to be configured with (its bug
# 114098): on a processor that has AMX, the first multiplication then ends the process.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13.3)
    add_compile_options(-U__AMX_INT8__)
endif()

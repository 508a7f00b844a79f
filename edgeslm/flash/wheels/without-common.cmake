# Included by CMake right after llama.cpp's project(): leaves out its command-line helpers,
# which the Python binding does not use. Saves a third of the compile time.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "Build llama.cpp common library" FORCE)

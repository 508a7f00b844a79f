# The same for llama-cpp-python, which needs less of llama.cpp.
include(${CMAKE_CURRENT_LIST_DIR}/llama.cmake)
include(${CMAKE_CURRENT_LIST_DIR}/../edgeslm/flash/wheels/without-common.cmake)

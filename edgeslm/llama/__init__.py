"""llama.cpp, typed: the only room that imports llama_cpp.

Everything native stays behind these modules: handles, C strings, log lines and return
codes go in, values and `edgeslm.errors` come out.
"""

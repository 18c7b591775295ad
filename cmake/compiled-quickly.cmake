# Included by a folder whose programs are built to be tried, not measured or shipped: half the time, a third of the size.
# The library they try is compiled as ever.
if(CMAKE_BUILD_TYPE STREQUAL RelWithDebInfo)
  set(CMAKE_CXX_FLAGS_RELWITHDEBINFO "-Og -g1 -DNDEBUG")
endif()

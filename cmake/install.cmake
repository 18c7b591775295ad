# cmake/install.cmake - what `cmake --install` puts where, in parts that a package may take one by one (`--component`):
#
#   runtime       libannex.so.1                      development   headers, libraries to link with, annex.pc, CMake's files
#   command       annex, its man pages, its capture  dpdk          the drop-in (src/interop/dpdk)
#   io_uring …    the library of a device (src/devices)
#
# Everything finds everything else from where it lies (installed-places.cmake): a prefix may be moved, DESTDIR is nowhere named.
include(CMakePackageConfigHelpers)
set(annex_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/annex)

install(TARGETS annex EXPORT annexTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT development)
install(TARGETS annex_static EXPORT annexStaticTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development)
install(FILES include/annex.h include/annex_ffi.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)
install(DIRECTORY include/annex DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)

install(EXPORT annexTargets NAMESPACE annex:: DESTINATION ${annex_cmake_dir} COMPONENT development)
install(EXPORT annexStaticTargets NAMESPACE annex:: DESTINATION ${annex_cmake_dir} COMPONENT development)  # apart: it needs fmt
configure_package_config_file(cmake/annexConfig.cmake.in annexConfig.cmake INSTALL_DESTINATION ${annex_cmake_dir})
write_basic_package_version_file(annexConfigVersion.cmake COMPATIBILITY SameMajorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/annexConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/annexConfigVersion.cmake
  DESTINATION ${annex_cmake_dir} COMPONENT development)

foreach(name annex annex_cpp)
  configure_file(cmake/${name}.pc.in ${name}.pc @ONLY)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT development)
endforeach()

if(TARGET annex_dpdk)
  install(TARGETS annex_dpdk annex_dpdk_static LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dpdk
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT dpdk)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/annex_dpdk.rsp DESTINATION ${CMAKE_INSTALL_DATADIR}/annex COMPONENT dpdk)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/annex_dpdk.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT dpdk)
endif()

install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT development)
include(cmake/tarball.cmake)

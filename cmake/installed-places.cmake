# Where installed files find each other: from their own place where they lie under the prefix, so that it may be moved; else by
# the folder that was asked for.
include(GNUInstallDirs)

set(ANNEX_PC_DIR ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig)
if(IS_ABSOLUTE "${CMAKE_INSTALL_LIBDIR}" OR IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
  set(ANNEX_PC_PREFIX ${CMAKE_INSTALL_PREFIX})
  set(ANNEX_PC_LIBDIR ${CMAKE_INSTALL_FULL_LIBDIR})
  set(ANNEX_PC_INCLUDEDIR ${CMAKE_INSTALL_FULL_INCLUDEDIR})
else()
  file(RELATIVE_PATH up_from_pc ${ANNEX_PC_DIR} ${CMAKE_INSTALL_PREFIX})
  string(REGEX REPLACE "/$" "" up_from_pc "${up_from_pc}")
  set(ANNEX_PC_PREFIX "\${pcfiledir}/${up_from_pc}")
  set(ANNEX_PC_LIBDIR "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
  set(ANNEX_PC_INCLUDEDIR "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
endif()

# The command finds its library and its capture, the libraries of devices find libannex beside them.
file(RELATIVE_PATH from_bin_to_lib ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
set(ANNEX_COMMAND_RPATH "$ORIGIN/${from_bin_to_lib}")
file(RELATIVE_PATH from_bin_to_share ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_DATADIR})

# annex for vcpkg, from the tree this port lies in: vcpkg install annex --overlay-ports=packaging/vcpkg/ports
#
# The CMake options are what tests/recipes_test does by itself, so that this recipe is checked where there is no vcpkg.
set(SOURCE_PATH "${CMAKE_CURRENT_LIST_DIR}/../../../..")

vcpkg_check_features(OUT_FEATURE_OPTIONS feature_options
  FEATURES
    devices ANNEX_DEVICES
    dpdk ANNEX_DPDK
    tools ANNEX_TOOLS
)
vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS
    ${feature_options}
    -DANNEX_TESTS=OFF
    -DANNEX_WARNINGS_ARE_ERRORS=OFF
)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(PACKAGE_NAME annex CONFIG_PATH lib/cmake/annex)
vcpkg_fixup_pkgconfig()
if("tools" IN_LIST FEATURES)
  vcpkg_copy_tools(TOOL_NAMES annex AUTO_CLEAN)
endif()

# Both forms are installed whatever the triplet: annex::annex is shared, so that all of a program has one, annex::annex_static is not.
set(VCPKG_POLICY_DLLS_IN_STATIC_LIBRARY enabled)
file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug/include" "${CURRENT_PACKAGES_DIR}/debug/share")
file(INSTALL "${CMAKE_CURRENT_LIST_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")

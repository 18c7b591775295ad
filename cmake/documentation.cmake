# Man pages of the C face and of annex itself, and the pages of docs/: made where Python is there, installed, checked by tests.
# Nothing here needs Doxygen: `make docs` makes the site (docs/site/build).
include(GNUInstallDirs)
find_package(Python3 COMPONENTS Interpreter)
option(ANNEX_DOCS "Make and install man 3 and man 7 pages (needs Python 3), and install the documentation" ON)

if(ANNEX_DOCS)
  if(Python3_Interpreter_FOUND)
    set(man3_dir ${PROJECT_BINARY_DIR}/docs/man3)
    file(MAKE_DIRECTORY ${man3_dir})
    add_custom_command(OUTPUT ${man3_dir}/made
      COMMAND ${PROJECT_SOURCE_DIR}/docs/man/make-pages --man ${man3_dir}
      COMMAND ${CMAKE_COMMAND} -E touch ${man3_dir}/made
      DEPENDS ${PROJECT_SOURCE_DIR}/docs/man/make-pages ${PROJECT_SOURCE_DIR}/include/annex.h ${PROJECT_SOURCE_DIR}/include/annex/errors.def VERBATIM)
    add_custom_target(man3_pages ALL DEPENDS ${man3_dir}/made)
    install(DIRECTORY ${man3_dir}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man3 FILES_MATCHING PATTERN "*.3")
  else()
    message(STATUS "No Python 3: the man pages of annex.h are left out")
  endif()
  install(FILES ${PROJECT_SOURCE_DIR}/docs/man/annex.7 DESTINATION ${CMAKE_INSTALL_MANDIR}/man7)

  # As they lie in the tree, so that README's links work there too.
  install(FILES ${PROJECT_SOURCE_DIR}/README.md ${PROJECT_SOURCE_DIR}/ARCHITECTURE.md ${PROJECT_SOURCE_DIR}/CHANGELOG.md
                ${PROJECT_SOURCE_DIR}/CONTRIBUTING.md ${PROJECT_SOURCE_DIR}/SECURITY.md ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs DESTINATION ${CMAKE_INSTALL_DOCDIR} FILES_MATCHING PATTERN "*.md" PATTERN "*.svg" PATTERN "*.json"
          PATTERN "models" EXCLUDE PATTERN "man" EXCLUDE PATTERN "site" EXCLUDE)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/examples DESTINATION ${CMAKE_INSTALL_DOCDIR})
endif()

# What the pages say is checked by running it.
if(ANNEX_TESTS AND Python3_Interpreter_FOUND)
  set(command_if_any)
  if(ANNEX_TOOLS)
    set(command_if_any $<TARGET_FILE:annex_command>)
  endif()
  add_test(NAME documentation COMMAND ${PROJECT_SOURCE_DIR}/tests/documentation_test ${PROJECT_BINARY_DIR} ${PROJECT_SOURCE_DIR} ${command_if_any})
  set_tests_properties(documentation PROPERTIES TIMEOUT 300)
endif()

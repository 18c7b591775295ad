# Man pages of the C face and of annex itself, and the pages of docs/: made where Python is there, installed, checked by tests.
# Nothing here needs Doxygen: `make docs` makes the site (docs/site/build).
find_package(Python3 COMPONENTS Interpreter QUIET)
set(has_docs OFF)  # recipes of other packagers leave docs/ out
if(EXISTS ${PROJECT_SOURCE_DIR}/docs/man/make-pages)
  set(has_docs ON)
endif()
option(ANNEX_DOCS "Make man pages of annex.h (needs Python 3); install them, annex(7) and the documentation" ${PROJECT_IS_TOP_LEVEL})

if(ANNEX_DOCS AND has_docs)
  if(Python3_Interpreter_FOUND)
    set(man3_dir ${PROJECT_BINARY_DIR}/docs/man3)
    add_custom_command(OUTPUT ${man3_dir}/made
      COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/docs/man/make-pages --man ${man3_dir}
      COMMAND ${CMAKE_COMMAND} -E touch ${man3_dir}/made
      DEPENDS ${PROJECT_SOURCE_DIR}/docs/man/make-pages ${PROJECT_SOURCE_DIR}/include/annex.h
        ${PROJECT_SOURCE_DIR}/include/annex/errors.def VERBATIM)
    add_custom_target(man3_pages ALL DEPENDS ${man3_dir}/made)
  else()
    message(STATUS "No Python 3: the man pages of annex.h are left out")
  endif()
endif()

if(ANNEX_DOCS AND has_docs AND ANNEX_INSTALL)
  if(TARGET man3_pages)
    install(DIRECTORY ${man3_dir}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man3 COMPONENT development FILES_MATCHING PATTERN "*.3")
  endif()
  install(FILES ${PROJECT_SOURCE_DIR}/docs/man/annex.7 DESTINATION ${CMAKE_INSTALL_MANDIR}/man7 COMPONENT development)
  # As they lie in the tree, so that README's links work there too.
  foreach(page IN ITEMS ARCHITECTURE.md CONTRIBUTING.md SECURITY.md)
    install(FILES ${PROJECT_SOURCE_DIR}/${page} DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT development)
  endforeach()
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/docs DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT development
    FILES_MATCHING PATTERN "*.md" PATTERN "*.svg" PATTERN "*.json" PATTERN "models" EXCLUDE PATTERN "man" EXCLUDE PATTERN "site" EXCLUDE)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/examples DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT development)
endif()

# What the pages say is checked by running it.
if(ANNEX_TESTS AND has_docs AND Python3_Interpreter_FOUND)
  set(command_if_any)
  if(ANNEX_TOOLS)
    set(command_if_any $<TARGET_FILE:annex_command>)
  endif()
  add_test(NAME documentation COMMAND ${PROJECT_SOURCE_DIR}/tests/documentation_test ${PROJECT_BINARY_DIR} ${PROJECT_SOURCE_DIR} ${command_if_any})
  set_tests_properties(documentation PROPERTIES TIMEOUT 300)
endif()

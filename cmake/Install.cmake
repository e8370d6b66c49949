# What other projects use: one shared library with kernels, engine and models, its headers, and a CMake package.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(adjoint_shared SHARED
  $<TARGET_OBJECTS:adjoint_kernels> $<TARGET_OBJECTS:adjoint_engine> $<TARGET_OBJECTS:adjoint_models>)
set_target_properties(adjoint_shared PROPERTIES OUTPUT_NAME adjoint EXPORT_NAME adjoint
  VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR})
target_link_libraries(adjoint_shared PRIVATE adjoint_cpu Threads::Threads fmt::fmt ${CMAKE_DL_LIBS})
if(ADJOINT_HAS_CUDA)
  target_link_libraries(adjoint_shared PRIVATE $<LINK_LIBRARY:WHOLE_ARCHIVE,adjoint_cuda>)
endif()
target_compile_features(adjoint_shared INTERFACE cxx_std_20)
# Headers include each other from the root of the source tree, which is include/adjoint once installed.
target_include_directories(adjoint_shared INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/adjoint>)

install(TARGETS adjoint_shared EXPORT AdjointTargets)
install(EXPORT AdjointTargets NAMESPACE Adjoint:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/Adjoint FILE AdjointConfig.cmake)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/AdjointConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/AdjointConfigVersion.cmake DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/Adjoint)
install(DIRECTORY kernels engine models DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/adjoint
  FILES_MATCHING PATTERN "*.h" PATTERN "cpu" EXCLUDE PATTERN "cuda" EXCLUDE PATTERN "simt" EXCLUDE)

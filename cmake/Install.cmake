# Filled by the packaging step: install rules and the exported CMake config.

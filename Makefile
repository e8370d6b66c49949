# Two thin wrappers over the CMake presets, so that a fresh machine needs one word.
.PHONY: demo test setup

# Train string reversal with and without attention, and look at the alignment.
demo: setup
	scripts/demo.sh

# Build everything with its tests and run them all.
test: setup
	scripts/test.sh

# Install the system packages that are missing (Debian, Ubuntu).
setup:
	scripts/setup.sh

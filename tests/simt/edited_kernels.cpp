// Puts kernels that were compiled from an edited source in the place of this program's own, where the environment names
// their library: what planted/planted_edits_test.cpp runs the tests with.

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>

namespace {

class EditedKernels : public ::testing::Environment {
  void SetUp() override {
    const char* const library = std::getenv("ADJOINT_EDITED_KERNELS");
    if (library == nullptr) return;
    // Its initialisers overwrite the entries of this program's kernels.
    ASSERT_NE(dlopen(library, RTLD_NOW | RTLD_LOCAL), nullptr) << dlerror();
  }
};

const ::testing::Environment* const added = ::testing::AddGlobalTestEnvironment(new EditedKernels);

}  // namespace

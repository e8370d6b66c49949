// Every system call of the save path is made to fail, one by one.

#include "engine/atomic_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include "engine/safetensors.h"
#include "kernels/base/error.h"
#include "tests/engine/safetensors_images.h"

namespace adjoint {
namespace {

using ::testing::ContainsRegex;

// Which call to fail, and the calls seen so far; plain globals, since the table holds plain functions.
struct Fault {
  std::string call;  // empty: none
  int at = 0;        // the at-th call of that name, from 0
  int reason = 0;
  bool short_write = false;  // write half instead of failing
  std::map<std::string, int> seen = {};
  std::vector<std::string> log = {};
  bool fails(const char* name) {
    log.emplace_back(name);
    const bool now = seen[name]++ == at && call == name;
    if (now) errno = reason;
    return now;
  }
};
Fault fault;
SystemCalls real;

class FaultySystem {
 public:
  explicit FaultySystem(Fault wanted = {}) {
    real = system_calls();
    fault = std::move(wanted);
    system_calls() = SystemCalls{
        .openat = [](int d, const char* p, int flags,
                     mode_t m) { return fault.fails("openat") ? -1 : real.openat(d, p, flags, m); },
        .fstatat = [](int d, const char* p, struct stat* s,
                      int flags) { return fault.fails("fstatat") ? -1 : real.fstatat(d, p, s, flags); },
        .fstat = [](int f, struct stat* s) { return fault.fails("fstat") ? -1 : real.fstat(f, s); },
        .pread = [](int f, void* b, std::size_t n, off_t o) -> ssize_t {
          return fault.fails("pread") ? -1 : real.pread(f, b, n, o);
        },
        .write = [](int f, const void* b, std::size_t n) -> ssize_t {
          if (!fault.fails("write")) return real.write(f, b, n);
          return fault.short_write ? real.write(f, b, n / 2) : -1;
        },
        .fchmod = [](int f, mode_t m) { return fault.fails("fchmod") ? -1 : real.fchmod(f, m); },
        .fsync = [](int f) { return fault.fails("fsync") ? -1 : real.fsync(f); },
        .close =
            [](int f) {
              real.close(f);  // a failed close closes all the same
              return fault.fails("close") ? -1 : 0;
            },
        .linkat = [](int d, const char* p, int e, const char* q,
                     int flags) { return fault.fails("linkat") ? -1 : real.linkat(d, p, e, q, flags); },
        .renameat = [](int d, const char* p, int e,
                       const char* q) { return fault.fails("renameat") ? -1 : real.renameat(d, p, e, q); },
        .unlinkat = [](int d, const char* p,
                       int flags) { return fault.fails("unlinkat") ? -1 : real.unlinkat(d, p, flags); },
    };
  }
  ~FaultySystem() { system_calls() = real; }
};

int open_files() {
  int count = 0;
  for (int file = 0; file < 256; ++file) count += fcntl(file, F_GETFD) != -1;
  return count;
}

class Save : public ::testing::Test {
 protected:
  Save() : data_(600'000, std::byte{7}) {  // more than one write
    const std::span<const std::byte> all(data_);
    tensors_ = {{.name = "a", .shape = {100'000}, .data = all.first(400'000)},
                {.name = "b", .shape = {50'000}, .data = all.last(200'000)}};
  }
  void run() { write_safetensors(path_, tensors_, {{"adjoint.step", "2"}}); }

  const test::TemporaryDirectory directory_;
  const std::string path_ = directory_.file("model.safetensors");
  std::vector<std::byte> data_;
  std::vector<TensorToWrite> tensors_;
};

TEST_F(Save, Orders_its_calls_so_that_a_power_failure_leaves_the_old_or_the_new_file) {
  test::save(path_, "previous");
  const FaultySystem system;
  run();
  std::vector<std::string> order;
  std::ranges::unique_copy(fault.log, std::back_inserter(order));
  EXPECT_THAT(order, ::testing::ElementsAre("openat", "write", "fchmod", "fsync", "close", "linkat", "renameat",
                                            "fsync", "unlinkat", "close"));
  EXPECT_GE(fault.seen["write"], 2);
}

TEST_F(Save, Keeps_the_previous_file_and_leaves_nothing_else_whichever_call_fails) {
  const int files_before = open_files();
  for (const bool has_previous : {true, false}) {
    std::map<std::string, int> calls;
    std::filesystem::remove(path_);
    if (has_previous) test::save(path_, "previous");
    {
      const FaultySystem system;
      run();
      calls = fault.seen;
    }
    const std::string complete = test::load(path_);
    int faults = 0;
    for (const auto& [call, count] : calls) {
      for (int at = 0; at < count; ++at) {
        for (const int reason : {ENOSPC, EIO, EDQUOT, EINTR, EROFS}) {
          SCOPED_TRACE(fmt::format("{} {}, {}, {}", call, at, strerror(reason), has_previous ? "previous" : "none"));
          std::filesystem::remove(path_);
          if (has_previous) test::save(path_, "previous");
          std::string code = "none";
          try {
            const FaultySystem system({.call = call, .at = at, .reason = reason});
            run();
          } catch (const Error& error) {
            code = error.code();
            EXPECT_EQ(error.exit(), Exit::io);
            EXPECT_EQ(code, reason == EROFS ? "E-IO-002" : "E-IO-005");
            EXPECT_THAT(error.what(), ::testing::HasSubstr(strerror(reason)));
            EXPECT_LE(error.line().size(), 400u) << error.what();
            if (reason != EROFS) {
              EXPECT_THAT(error.what(), ContainsRegex("need [0-9]+ bytes, [0-9]+ free.*previous checkpoint.*kept"));
            }
          }
          ++faults;
          // An interrupted call is repeated. After the directory is synced the save is done: nothing that follows
          // (removing the second link, closing the directory) can take it back.
          const bool after_the_fact = call == "unlinkat" || (call == "close" && at == 1);
          EXPECT_EQ(code == "none", reason == EINTR || after_the_fact);
          if (code == "none") {
            EXPECT_EQ(test::load(path_), complete);
          } else {
            EXPECT_EQ(test::load(path_), has_previous ? "previous" : "");
          }
          const bool second_link_stays = call == "unlinkat" && reason != EINTR;
          EXPECT_EQ(directory_.entries(), (code == "none" || has_previous ? 1u : 0u) + (second_link_stays ? 1u : 0u));
          for (const std::string& name : remove_stale_temporaries(directory_.path())) {
            EXPECT_THAT(name, ::testing::StartsWith(".adjoint-old-"));
          }
        }
      }
    }
    EXPECT_GE(faults, 50);
    EXPECT_EQ(open_files(), files_before);
  }
}

TEST_F(Save, Does_without_the_second_link_where_the_file_system_has_none) {
  test::save(path_, "previous");
  const FaultySystem system({.call = "linkat", .at = 0, .reason = EPERM});
  run();
  EXPECT_NO_THROW(SafetensorsFile(path_).verify_checksums());
  EXPECT_EQ(directory_.entries(), 1u);
}

TEST_F(Save, Says_so_when_the_previous_file_cannot_come_back) {
  test::save(path_, "previous");
  const FaultySystem system({.call = "fsync", .at = 1, .reason = EIO});
  system_calls().linkat = [](int, const char*, int, const char*, int) {
    errno = EPERM;
    return -1;
  };
  try {
    run();
    ADD_FAILURE() << "saved";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), "E-IO-005");
    EXPECT_THAT(error.what(), ContainsRegex("Input/output error.*in place.*may not survive a power failure"));
  }
  EXPECT_NO_THROW(SafetensorsFile(path_).verify_checksums());
}

TEST_F(Save, Accepts_file_systems_that_cannot_sync_a_directory) {
  const FaultySystem system({.call = "fsync", .at = 1, .reason = EINVAL});
  run();
  EXPECT_NO_THROW(SafetensorsFile(path_).verify_checksums());
}

TEST_F(Save, Goes_on_after_a_short_write) {
  for (const int at : {0, 1}) {
    {
      const FaultySystem system({.call = "write", .at = at, .short_write = true});
      run();
    }
    EXPECT_NO_THROW(SafetensorsFile(path_).verify_checksums());
  }
}

TEST_F(Save, Does_not_wait_for_a_disk_that_takes_nothing) {
  const FaultySystem system;
  system_calls().write = [](int, const void*, std::size_t) -> ssize_t { return 0; };
  try {
    run();
    ADD_FAILURE() << "saved";
  } catch (const Error& error) {
    EXPECT_THAT(error.line(), ContainsRegex("E-IO-005.*No space"));
  }
  EXPECT_EQ(directory_.entries(), 0u);
}

TEST_F(Save, Turns_the_limit_of_file_sizes_into_an_error) {
  test::save(path_, "previous");
  rlimit old_limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const auto old_handler = signal(SIGXFSZ, SIG_IGN);  // what every program of the project does
  const rlimit limit{300'000, old_limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  std::string line;
  try {
    run();
  } catch (const Error& error) {
    line = error.line();
  }
  setrlimit(RLIMIT_FSIZE, &old_limit);
  signal(SIGXFSZ, old_handler);
  EXPECT_THAT(line, ContainsRegex("E-IO-005.*File too large.*need [0-9]+ bytes.*previous checkpoint.*kept"));
  EXPECT_EQ(test::load(path_), "previous");
  EXPECT_EQ(directory_.entries(), 1u);
}

TEST_F(Save, Gives_the_file_the_mode_of_the_umask_once_it_is_complete) {
  const mode_t old_mask = umask(027);
  run();
  umask(old_mask);
  struct stat status;
  ASSERT_EQ(stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777u, 0640u);
}

TEST_F(Save, Never_follows_a_link_at_its_temporary_name) {
  const std::string victim = directory_.file("victim");
  test::save(victim, "untouched");
  // The first hundred names that this process would take next, as an attacker in a shared directory could guess them.
  const AtomicFile probe(directory_.file("probe"), "checkpoint", 0);
  std::uint64_t next = 0;
  for (const auto& item : std::filesystem::directory_iterator(directory_.path())) {
    const std::string name = item.path().filename().string();
    if (name.starts_with(".adjoint-tmp-")) next = std::stoull(name.substr(name.rfind('-') + 1)) + 1;
  }
  for (std::uint64_t i = next; i < next + 50; ++i) {
    std::filesystem::create_symlink(victim, directory_.file(fmt::format(".adjoint-tmp-{}-{}", getpid(), i)));
  }
  run();
  EXPECT_EQ(test::load(victim), "untouched");
  EXPECT_NO_THROW(SafetensorsFile(path_).verify_checksums());
}

TEST_F(Save, Replaces_a_link_rather_than_what_it_points_to) {
  const std::string target = directory_.file("target");
  test::save(target, "untouched");
  std::filesystem::create_symlink(target, path_);
  run();
  EXPECT_EQ(test::load(target), "untouched");
  EXPECT_TRUE(std::filesystem::is_regular_file(std::filesystem::symlink_status(path_)));
}

TEST_F(Save, Refuses_a_directory_as_its_target) {
  std::filesystem::create_directory(path_);
  EXPECT_THROW(run(), Error);
  EXPECT_EQ(directory_.entries(), 1u);
}

TEST(AtomicFile, Is_gone_when_it_was_not_committed) {
  const test::TemporaryDirectory directory;
  {
    AtomicFile file(directory.file("report.html"), "report", 4);
    file.write(std::as_bytes(std::span("text", 4)));
    EXPECT_EQ(directory.entries(), 1u);
  }
  EXPECT_EQ(directory.entries(), 0u);
}

TEST(AtomicFile, Reports_a_directory_that_cannot_be_written_before_it_is_needed) {
  const test::TemporaryDirectory directory;
  EXPECT_NO_THROW(require_writable_directory(directory.path()));
  EXPECT_EQ(directory.entries(), 0u);
  const auto code_and_text = [](const std::string& path) {
    try {
      require_writable_directory(path);
    } catch (const Error& error) {
      EXPECT_EQ(error.exit(), Exit::io);
      return error.line();
    }
    return std::string();
  };
  EXPECT_THAT(code_and_text(directory.file("absent")),
              ContainsRegex("E-IO-002.*run directory.*(No such file or directory)"));
  test::save(directory.file("plain"), "x");
  EXPECT_THAT(code_and_text(directory.file("plain")), ContainsRegex("E-IO-002.*run directory.*(Not a directory)"));
  const FaultySystem system({.call = "openat", .at = 1, .reason = EACCES});
  EXPECT_THAT(code_and_text(directory.path()), ContainsRegex("E-IO-002.*run directory.*(Permission denied)"));
}

TEST(AtomicFile, Removes_what_a_killed_process_left) {
  const test::TemporaryDirectory directory;
  for (const char* name : {".adjoint-tmp-17-3", ".adjoint-old-17-4", "model.safetensors", ".other"}) {
    test::save(directory.file(name), "x");
  }
  EXPECT_THAT(remove_stale_temporaries(directory.path()),
              ::testing::ElementsAre(".adjoint-old-17-4", ".adjoint-tmp-17-3"));
  EXPECT_EQ(directory.entries(), 2u);
  EXPECT_THAT(remove_stale_temporaries(directory.file("absent")), ::testing::IsEmpty());
}

TEST(SafetensorsFile, Reports_each_failing_call_of_a_load) {
  const test::TemporaryDirectory directory;
  const std::string path = directory.file("w.safetensors");
  const std::vector<std::byte> data(8);
  const std::vector<TensorToWrite> tensors = {{.name = "w", .shape = {2}, .data = data}};
  write_safetensors(path, tensors, {});
  const auto load = [&] { SafetensorsFile(path).verify_checksums(); };
  std::map<std::string, int> calls;
  {
    const FaultySystem system;
    load();
    calls = fault.seen;
  }
  EXPECT_EQ(calls["pread"], 3);
  for (const auto& [call, count] : calls) {
    for (int at = 0; at < count; ++at) {
      SCOPED_TRACE(fmt::format("{} {}", call, at));
      if (call == "pread" || call == "openat") {  // an interrupted call is repeated
        const FaultySystem system({.call = call, .at = at, .reason = EINTR});
        EXPECT_NO_THROW(load());
      }
      const FaultySystem system({.call = call, .at = at, .reason = EIO});
      try {
        load();
        EXPECT_EQ(call, "close");
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), call == "pread" ? "E-IO-004" : "E-IO-001");
        EXPECT_EQ(error.exit(), Exit::io);
        EXPECT_THAT(error.what(), ::testing::HasSubstr("Input/output error"));
      }
    }
  }
}

}  // namespace
}  // namespace adjoint

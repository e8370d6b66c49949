#include "tests/simt/child.h"

#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <stdexcept>

#include "kernels/simt/executor.h"
#include "tests/simt/cases.h"

namespace adjoint::simt::self_test {
namespace {

constexpr unsigned kSeconds = 60;
constexpr char kMark[] = "VERDICT ";

void say(int file, const std::string& text) {
  std::size_t done = 0;
  while (done < text.size()) {
    ssize_t n = write(file, text.data() + done, text.size() - done);
    if (n <= 0) return;
    done += static_cast<std::size_t>(n);
  }
}

[[noreturn]] void child(int to_parent, const std::function<void()>& body) {
  dup2(to_parent, STDERR_FILENO);  // a sanitizer's report
  dup2(to_parent, STDOUT_FILENO);
  alarm(kSeconds);
  Outcome outcome{Verdict::missed, ""};
  try {
    body();
  } catch (const Fault& e) {
    outcome = {Verdict::diagnosed, e.what()};
  } catch (const WrongValue& e) {
    outcome = {Verdict::value, e.what()};
  }
  say(to_parent, kMark + std::string(name(outcome.verdict)) + "\n" + outcome.text);
  _exit(0);  // no destructors, no leak check: the executor's fibers are abandoned on purpose
}

std::string read_all(int file) {
  std::string text;
  char buffer[4096];
  for (ssize_t n; (n = read(file, buffer, sizeof buffer)) > 0;) text.append(buffer, static_cast<std::size_t>(n));
  return text;
}

std::string first_line_with(const std::string& text, const char* word) {
  std::size_t at = text.find(word);
  if (at == std::string::npos) return "";
  return text.substr(at, text.find('\n', at) - at);
}

}  // namespace

const char* name(Verdict verdict) {
  switch (verdict) {
    case Verdict::missed: return "missed";
    case Verdict::value: return "value";
    case Verdict::diagnosed: return "diagnosed";
    case Verdict::sanitizer: return "sanitizer";
    case Verdict::crash: return "crash";
  }
  return "?";
}

Outcome run_in_child(const std::function<void()>& body) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) throw std::runtime_error("pipe failed");
  pid_t pid = fork();
  if (pid < 0) throw std::runtime_error("fork failed");
  if (pid == 0) {
    close(pipe_ends[0]);
    child(pipe_ends[1], body);
  }
  close(pipe_ends[1]);
  std::string text = read_all(pipe_ends[0]);
  close(pipe_ends[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
    std::size_t at = text.find(kMark) + sizeof kMark - 1, end = text.find('\n', at);
    std::string verdict = text.substr(at, end - at), rest = text.substr(end + 1);
    for (Verdict v : {Verdict::missed, Verdict::value, Verdict::diagnosed}) {
      if (verdict == name(v)) return {v, rest};
    }
    throw std::runtime_error("a child said: " + text);
  }
  for (const char* word : {"AddressSanitizer:", "runtime error:"}) {
    if (std::string line = first_line_with(text, word); !line.empty()) return {Verdict::sanitizer, line};
  }
  if (WIFSIGNALED(status)) return {Verdict::crash, "signal " + std::to_string(WTERMSIG(status))};
  return {Verdict::crash, "exit status " + std::to_string(WEXITSTATUS(status)) + ": " + text};
}

}  // namespace adjoint::simt::self_test

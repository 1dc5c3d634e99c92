// `elbo run`, or what is left of it: a run that ends as by kill -9, just before its Nth change of a folder or sync of a
// file (tests/kill_test.py).
//
//   dying_run N SECONDS SPEC DATA DEVICE FOLDER
//
// N: 0 is never; SECONDS: RunOptions::checkpoint_seconds. It goes on where FOLDER holds a run.
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "host/commands/run.h"

namespace {

std::atomic<int> lives{0};

// Between two of these calls only temporary files and the end of metrics.jsonl change.
void count() {
  if (--lives == 0) kill(getpid(), SIGKILL);
}

}  // namespace

// In the place of the C library's.
extern "C" {
int rename(const char* from, const char* to) noexcept {
  count();
  return static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}
int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) noexcept {
  count();
  return static_cast<int>(syscall(SYS_linkat, from_folder, from, to_folder, to, flags));
}
int unlink(const char* path) noexcept {
  count();
  return static_cast<int>(syscall(SYS_unlinkat, AT_FDCWD, path, 0));
}
int remove(const char* path) noexcept { return unlink(path); }
int fsync(int file) {
  count();
  return static_cast<int>(syscall(SYS_fsync, file));
}
}

int main(int argc, char** argv) {
  if (argc != 7) return 2;
  std::setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);  // as elbo's main() does
  try {
    elbo::RunOptions options;
    options.spec = argv[3];
    options.device = argv[5];
    options.backend.threads = 1;
    options.data = argv[4];
    options.out = argv[6];
    options.resume = "last";
    options.checkpoint_seconds = std::atof(argv[2]);
    lives = std::atoi(argv[1]);
    return elbo::run_experiment(options);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "dying_run: %s\n", e.what());
    return 1;
  }
}

// A disk that fails once, loaded before a program's libraries (LD_PRELOAD; tests/failing_disk_test.py).
//
// Calls that change what is on the disk, or lock it, are counted where they are for a file or folder at or below
// ELBO_DISK_FOLDER.
// Call ELBO_DISK_FAILS_AT (from 1; 0: none) fails with the number ELBO_DISK_ERROR in errno. ELBO_DISK_LOG gets a line
// "CALL PATH" for each that is counted, and after the one that fails a line "failed CALL PATH".
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <string>

namespace {

std::string variable(const char* name) {
  const char* value = getenv(name);
  return value ? value : "";
}

template <class F>
F* next(const char* name) {
  return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}

std::string absolute(int folder, const char* path) {
  std::string name(path);
  if (name.starts_with('/')) return name;
  char at[4096];
  const std::string link = folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/" + std::to_string(folder);
  const ssize_t n = readlink(link.c_str(), at, sizeof at);
  return std::string(at, n > 0 ? static_cast<std::size_t>(n) : 0) + "/" + name;
}

std::string path_of(int file) {
  char path[4096];
  const ssize_t n = readlink(("/proc/self/fd/" + std::to_string(file)).c_str(), path, sizeof path);
  return std::string(path, n > 0 ? static_cast<std::size_t>(n) : 0);
}

// Whether this call is to fail; errno is set then.
bool fails(const char* call, const std::string& path) {
  static const std::string folder = variable("ELBO_DISK_FOLDER"), log = variable("ELBO_DISK_LOG");
  static const int at = atoi(variable("ELBO_DISK_FAILS_AT").c_str()), error = atoi(variable("ELBO_DISK_ERROR").c_str());
  static std::atomic<int> count{0};
  if (folder.empty() || (path != folder && !path.starts_with(folder + "/"))) return false;
  const bool failing = ++count == at;
  const std::string line = std::string(failing ? "failed " : "") + call + " " + path + "\n";
  const int file = static_cast<int>(syscall(SYS_openat, AT_FDCWD, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666));
  if (syscall(SYS_write, file, line.data(), line.size()) < 0) abort();
  syscall(SYS_close, file);
  if (failing) errno = error;
  return failing;
}

int open_or_fail(int folder, const char* path, int flags, mode_t mode) {
  if (fails("open", absolute(folder, path))) return -1;
  return static_cast<int>(syscall(SYS_openat, folder, path, flags, mode));
}

mode_t mode_in(int flags, va_list arguments) {
  return flags & (O_CREAT | O_TMPFILE) ? static_cast<mode_t>(va_arg(arguments, int)) : 0;
}

}  // namespace

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_in(flags, arguments);
  va_end(arguments);
  return open_or_fail(AT_FDCWD, path, flags, mode);
}
int openat(int folder, const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_in(flags, arguments);
  va_end(arguments);
  return open_or_fail(folder, path, flags, mode);
}

// Half of what it was to write is there.
ssize_t write(int file, const void* bytes, size_t n) {
  static auto* const real = next<ssize_t(int, const void*, size_t)>("write");
  const std::string path = path_of(file);
  if (!fails("write", path)) return real(file, bytes, n);
  const int error = errno;
  if (n > 1) real(file, bytes, n / 2);
  errno = error;
  return -1;
}

int fsync(int file) {
  static auto* const real = next<int(int)>("fsync");
  return fails("fsync", path_of(file)) ? -1 : real(file);
}
int fdatasync(int file) {
  static auto* const real = next<int(int)>("fdatasync");
  return fails("fdatasync", path_of(file)) ? -1 : real(file);
}

int flock(int file, int how) noexcept {
  static auto* const real = next<int(int, int)>("flock");
  return fails("flock", path_of(file)) ? -1 : real(file, how);
}

int rename(const char* from, const char* to) noexcept {
  static auto* const real = next<int(const char*, const char*)>("rename");
  return fails("rename", absolute(AT_FDCWD, to)) ? -1 : real(from, to);
}

int linkat(int from_folder, const char* from, int to_folder, const char* to, int flags) noexcept {
  static auto* const real = next<int(int, const char*, int, const char*, int)>("linkat");
  return fails("linkat", absolute(to_folder, to)) ? -1 : real(from_folder, from, to_folder, to, flags);
}

int mkdir(const char* path, mode_t mode) noexcept {
  static auto* const real = next<int(const char*, mode_t)>("mkdir");
  return fails("mkdir", absolute(AT_FDCWD, path)) ? -1 : real(path, mode);
}

// Of a file that is being written. It is closed in any case, as Linux does.
int close(int file) {
  static auto* const real = next<int(int)>("close");
  const int flags = fcntl(file, F_GETFL);
  const bool writes = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY, appends = writes && (flags & O_APPEND);
  const std::string path = writes ? path_of(file) : "";
  const bool failing = (appends || path.ends_with(".elbo-tmp")) && fails("close", path);
  const int error = errno, result = real(file);
  if (failing) errno = error;
  return failing ? -1 : result;
}

}  // extern "C"

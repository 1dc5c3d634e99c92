// What each block sees of the device's memory while blocks run apart (executor.h says what that models). One block at a
// time is shown: the memory itself then holds what that block sees, so that a kernel's plain loads and stores need no
// help. Bytes in which it differs from what the block was given are the stores that it has not published.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <utility>
#include <vector>

namespace cusim {

// Memory of the runtime's own, by pages. Whichever stream's work runs blocks opens the views; to ThreadSanitizer these
// are threads that nothing orders, and it would see `new` and `delete` write.
template <class T>
struct Pages {
  using value_type = T;
  Pages() = default;
  template <class U>
  Pages(const Pages<U>&) {}
  T* allocate(std::size_t n) {
    void* p = mmap(nullptr, n * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    return static_cast<T*>(p);
  }
  void deallocate(T* p, std::size_t n) { munmap(p, n * sizeof(T)); }
  bool operator==(const Pages&) const { return true; }
};
template <class T>
using Unwatched = std::vector<T, Pages<T>>;

struct Span {
  char* at = nullptr;
  std::size_t bytes = 0;
};
// All that is allocated, on the device and pinned.
Unwatched<Span> allocated();

class Views {
 public:
  // Takes the memory as it is for the one that all share, save allocations that are too large by themselves, and makes
  // room for `slots` blocks. Throws Fault where that is more memory than anyone would copy at every switch.
  void open(unsigned slots);
  // What ended blocks have not published takes effect, as at the end of a kernel, and the memory is everyone's.
  void close();
  bool is_open() const { return open_; }

  // Nothing below allocates, end() aside: it may be called on a CUDA thread's fiber.
  void begin(unsigned slot);  // a block that has stored nothing, and sees all that is published
  void end(unsigned slot);
  void show(unsigned slot);

  // Of the block that is shown.
  void publish_and_refresh();
  // Around an atomic operation: it works on the shared memory, behind the block's own earlier stores to that place.
  void begin_atomic(const void* p, std::size_t bytes);
  void end_atomic(const void* p, std::size_t bytes);

 private:
  struct View {
    Unwatched<char> given, seen;  // `seen` while another block is shown
  };
  void hide();
  template <class Visit>
  void visit_unpublished(const Visit&) const;
  std::size_t offset_of(const void* p, std::size_t bytes) const;

  bool open_ = false;
  Unwatched<Span> memory_;
  Unwatched<char> shared_;
  Unwatched<View> views_;
  Unwatched<std::pair<std::size_t, char>> left_;  // unpublished by blocks that have ended
  View* shown_ = nullptr;
};

}  // namespace cusim

// Built, like fiber.cpp, without ThreadSanitizer's instrumentation.
#include "tests/sim/views.h"

#include <cstring>
#include <string>

#include "tests/sim/executor.h"

namespace cusim {
namespace {

constexpr std::size_t most_bytes = 16 << 20;
constexpr std::size_t none = ~std::size_t{0};

// Not memcpy, in which ThreadSanitizer would see an access by whoever runs.
void copy(void* to, const void* from, std::size_t bytes) {
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
}

// A word that may be read where no word begins.
std::uint64_t word_at(const char* p) {
  std::uint64_t word;
  asm("movq (%1), %0" : "=r"(word) : "r"(p) : "memory");
  return word;
}

}  // namespace

void Views::open(unsigned slots) {
  memory_ = allocated();
  std::erase_if(memory_, [](const Span& s) { return s.bytes > most_bytes; });
  std::size_t bytes = 0;
  for (const Span& s : memory_) bytes += s.bytes;
  if (bytes > most_bytes)
    throw Fault("blocks run apart in at most " + std::to_string(most_bytes >> 20) + " MiB of memory, and " +
                std::to_string(bytes) + " bytes are allocated");
  shared_.resize(bytes);
  if (views_.size() < slots) views_.resize(slots);
  for (View& v : views_) {
    v.given.resize(bytes);
    v.seen.resize(bytes);
  }
  std::size_t offset = 0;
  for (const Span& s : memory_) {
    copy(shared_.data() + offset, s.at, s.bytes);
    offset += s.bytes;
  }
  left_.clear();
  shown_ = nullptr;
  open_ = true;
}

void Views::close() {
  if (!open_) return;
  for (const auto& [offset, byte] : left_) shared_[offset] = byte;
  std::size_t offset = 0;
  for (const Span& s : memory_) {
    copy(s.at, shared_.data() + offset, s.bytes);
    offset += s.bytes;
  }
  open_ = false;
}

void Views::begin(unsigned slot) {
  copy(views_[slot].given.data(), shared_.data(), shared_.size());
  copy(views_[slot].seen.data(), shared_.data(), shared_.size());
}

void Views::end(unsigned slot) {
  show(slot);
  visit_unpublished([&](std::size_t offset, char byte) { left_.emplace_back(offset, byte); });
  shown_ = nullptr;
}

void Views::hide() {
  if (!shown_) return;
  std::size_t offset = 0;
  for (const Span& s : memory_) {
    copy(shown_->seen.data() + offset, s.at, s.bytes);
    offset += s.bytes;
  }
}

void Views::show(unsigned slot) {
  View& next = views_[slot];
  if (shown_ == &next) return;
  hide();
  shown_ = &next;
  std::size_t offset = 0;
  for (const Span& s : memory_) {
    copy(s.at, next.seen.data() + offset, s.bytes);
    offset += s.bytes;
  }
}

// visit(offset, byte) for each byte that the block shown has stored and not published.
template <class Visit>
void Views::visit_unpublished(const Visit& visit) const {
  std::size_t offset = 0;
  for (const Span& s : memory_) {
    const char* const given = shown_->given.data() + offset;
    for (std::size_t i = 0; i < s.bytes;) {
      if (i + 8 <= s.bytes && word_at(s.at + i) == word_at(given + i)) {
        i += 8;
        continue;
      }
      const std::size_t end = i + 8 <= s.bytes ? i + 8 : s.bytes;
      for (; i < end; ++i)
        if (s.at[i] != given[i]) visit(offset + i, s.at[i]);
    }
    offset += s.bytes;
  }
}

void Views::publish_and_refresh() {
  visit_unpublished([&](std::size_t offset, char byte) { shared_[offset] = byte; });
  std::size_t offset = 0;
  for (const Span& s : memory_) {
    copy(s.at, shared_.data() + offset, s.bytes);
    offset += s.bytes;
  }
  copy(shown_->given.data(), shared_.data(), shared_.size());
}

std::size_t Views::offset_of(const void* p, std::size_t bytes) const {
  std::size_t offset = 0;
  for (const Span& s : memory_) {
    if (p >= s.at && static_cast<const char*>(p) + bytes <= s.at + s.bytes)
      return offset + static_cast<std::size_t>(static_cast<const char*>(p) - s.at);
    offset += s.bytes;
  }
  return none;
}

void Views::begin_atomic(const void* p, std::size_t bytes) {
  const std::size_t offset = offset_of(p, bytes);
  if (offset == none) return;
  char* const at = static_cast<char*>(const_cast<void*>(p));
  char* const given = shown_->given.data() + offset;
  for (std::size_t i = 0; i < bytes; ++i)
    if (at[i] != given[i]) shared_[offset + i] = at[i];
  copy(at, shared_.data() + offset, bytes);
  copy(given, at, bytes);
}

void Views::end_atomic(const void* p, std::size_t bytes) {
  const std::size_t offset = offset_of(p, bytes);
  if (offset == none) return;
  copy(shared_.data() + offset, p, bytes);
  copy(shown_->given.data() + offset, p, bytes);
}

}  // namespace cusim

// Memory for what kernels read in whole cache lines: where each of its vectors lies in two, it is read at a third of the speed.

#ifndef PMSM_ALIGNED_H
#define PMSM_ALIGNED_H

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

namespace pmsm {

constexpr size_t kCacheLine = 64;

template <typename Element>
struct InCacheLines {
  using value_type = Element;

  InCacheLines() = default;
  template <typename Other>
  InCacheLines(const InCacheLines<Other>&) {}

  // What `new` gives lies before the first line, so that it can be given back. (Its own alignment is not there on old systems.)
  Element* allocate(size_t count) {
    char* given = static_cast<char*>(::operator new(count * sizeof(Element) + kCacheLine + sizeof(given)));
    char* at = given + sizeof(given);
    at += (kCacheLine - reinterpret_cast<uintptr_t>(at) % kCacheLine) % kCacheLine;
    std::memcpy(at - sizeof(given), &given, sizeof(given));
    return reinterpret_cast<Element*>(at);
  }
  void deallocate(Element* at, size_t) {
    char* given = nullptr;
    std::memcpy(&given, reinterpret_cast<char*>(at) - sizeof(given), sizeof(given));
    ::operator delete(given);
  }

  template <typename Other>
  bool operator==(const InCacheLines<Other>&) const { return true; }
  template <typename Other>
  bool operator!=(const InCacheLines<Other>&) const { return false; }
};

template <typename Element>
using Aligned = std::vector<Element, InCacheLines<Element>>;

}  // namespace pmsm

#endif

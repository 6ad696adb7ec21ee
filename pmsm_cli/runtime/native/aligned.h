// Memory for what kernels read in whole cache lines: where each of its vectors lies in two, it is read at a third of the speed.

#ifndef PMSM_ALIGNED_H
#define PMSM_ALIGNED_H

#include <cstddef>
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

  Element* allocate(size_t count) {
    return static_cast<Element*>(::operator new(count * sizeof(Element), std::align_val_t(kCacheLine)));
  }
  void deallocate(Element* at, size_t) { ::operator delete(at, std::align_val_t(kCacheLine)); }

  template <typename Other>
  bool operator==(const InCacheLines<Other>&) const { return true; }
  template <typename Other>
  bool operator!=(const InCacheLines<Other>&) const { return false; }
};

template <typename Element>
using Aligned = std::vector<Element, InCacheLines<Element>>;

}  // namespace pmsm

#endif

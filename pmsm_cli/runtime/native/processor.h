// Which of the kernels for particular processors are used on this one.

#ifndef PMSM_PROCESSOR_H
#define PMSM_PROCESSOR_H

namespace pmsm {

// What products of bytes are made with, the slowest first.
enum class Kernels {
  kAnywhere,  // loops for any processor
  kAvx2,      // pairs of products in 16 bits, where there is no VNNI: AMD before Zen 4, Intel's servers before 2019
  kVnni,      // words of products in 32 bits, in AVX-512
  kTiles,     // Intel's AMX, of servers since 2023
};

// The fastest that this processor and its operating system have. The environment may leave some alone, to see what they are
// worth: PMSM_KERNELS=anywhere, avx2 or vnni names the fastest that may be used.
Kernels FastestKernels();

inline bool HasVnni() { return FastestKernels() >= Kernels::kVnni; }

// Whether products of bytes are added up in pairs of 16 bits.
inline bool AddsInPairs() { return FastestKernels() == Kernels::kAvx2; }

// Whether convolutions of codes are worth taking from onnxruntime.
inline bool MultipliesFast() { return FastestKernels() > Kernels::kAnywhere; }

}  // namespace pmsm

#endif

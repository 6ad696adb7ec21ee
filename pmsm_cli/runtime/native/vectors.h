// What lets compilers make vector code of the kernels' loops, and what those loops share.

#ifndef PMSM_VECTORS_H
#define PMSM_VECTORS_H

#include <cfloat>
#include <cmath>
#include <cstddef>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "the neuron needs IEEE arithmetic: build without -ffast-math and -ffinite-math-only"
#endif
static_assert(FLT_EVAL_METHOD == 0, "the neuron needs float arithmetic in float32");

// One build for every processor: the loops are compiled again for wider vectors, and the loader picks. It takes a C
// library with indirect functions. The sanitizers instrument the picking, which runs before they are ready.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__has_attribute) && !defined(__SANITIZE_ADDRESS__)
#if __has_attribute(target_clones)
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
// Tuned for no processor in particular, GCC uses all of AVX-512's width.
#define PMSM_WIDER_VECTORS __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define PMSM_WIDER_VECTORS __attribute__((target_clones("avx2", "default")))
#endif
#endif
#endif
#ifndef PMSM_WIDER_VECTORS
#define PMSM_WIDER_VECTORS
#endif

// Promises that no element depends on another one, which holds even where onnxruntime computes in place.
#if defined(__clang__)
#define PMSM_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define PMSM_INDEPENDENT _Pragma("GCC ivdep")
#elif defined(_MSC_VER)
#define PMSM_INDEPENDENT __pragma(loop(ivdep))
#else
#define PMSM_INDEPENDENT
#endif

// A loop of a few turns, a constant number, becomes so many copies of its body.
#if defined(__clang__)
#define PMSM_UNROLLED _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define PMSM_UNROLLED _Pragma("GCC unroll 8")
#else
#define PMSM_UNROLLED
#endif

#if defined(_MSC_VER)
#define PMSM_INLINE __forceinline
#else
#define PMSM_INLINE inline __attribute__((always_inline))
#endif

// What will be read, or written, comes from afar: it is to be on its way.
#if defined(__GNUC__) || defined(__clang__)
#define PMSM_FETCH(address, writes) __builtin_prefetch(address, writes)
#else
#define PMSM_FETCH(address, writes) (void)(address)
#endif

namespace pmsm {

// So many elements in a row that longer rows gain nothing.
constexpr size_t kRun = 512;

// To the nearest whole number, ties to the even one. SSE2 has no instruction for it, but float addition rounds this
// way: at 2^23 and above floats are whole numbers, and adding 2^23 leaves no room for a fraction.
PMSM_INLINE float RoundHalfEven(float x) {
  const float whole = 8388608.0f;
  const float shift = std::copysign(whole, x);
  const float rounded = (x + shift) - shift;
  return std::fabs(x) < whole ? rounded : x;
}

// The bounds are whole numbers, so that clipping before rounding gives the same count as after it, and is cheaper.
PMSM_INLINE float Emit(float wanted, float lowest, float highest) {
  const float raised = wanted > lowest ? wanted : lowest;
  const float clipped = raised < highest ? raised : highest;
  const float spikes = RoundHalfEven(clipped);
  return wanted == wanted ? spikes : 0.0f;  // not a number: no spike
}

// `Emit` with bounds of at most `kFew`: so near 0 that one sum leaves no room for a fraction, whichever the sign.
constexpr float kFew = 4194304.0f;
PMSM_INLINE float EmitFew(float wanted, float lowest, float highest) {
  const float raised = wanted > lowest ? wanted : lowest;
  const float clipped = raised < highest ? raised : highest;
  const float spikes = (clipped + 12582912.0f) - 12582912.0f;
  return wanted == wanted ? spikes : 0.0f;
}

}  // namespace pmsm

#endif

// Vectors of one kind of processor, in files that also have loops for any; with PMSM_PORTABLE, these alone.

#ifndef PMSM_TARGETS_H
#define PMSM_TARGETS_H

#if !defined(PMSM_PORTABLE) && defined(__x86_64__) && !defined(_MSC_VER) && \
    (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 9))
#define PMSM_AVX2 __attribute__((target("avx2,fma")))
#define PMSM_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#include <immintrin.h>
#endif

#endif

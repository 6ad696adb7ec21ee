#include "processor.h"

#include <cstdlib>
#include <cstring>

#include "convolution_tiles.h"
#include "targets.h"

#ifdef PMSM_VNNI
#include <cpuid.h>
#endif

namespace pmsm {
namespace {

Kernels Allowed() {
  const char* asked = std::getenv("PMSM_KERNELS");
  if (!asked) return Kernels::kTiles;
  if (std::strcmp(asked, "anywhere") == 0) return Kernels::kAnywhere;
  if (std::strcmp(asked, "avx2") == 0) return Kernels::kAvx2;
  if (std::strcmp(asked, "vnni") == 0) return Kernels::kVnni;
  return Kernels::kTiles;
}

#ifdef PMSM_VNNI

// VNNI without AVX-512, as Intel's desktops have it since 2021: onnxruntime has kernels for that, and we have none.
bool HasVnniOfAvx2() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 4));
}

#endif

Kernels Fastest([[maybe_unused]] Kernels allowed) {
#ifdef PMSM_VNNI
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool vnni = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  if (vnni && allowed >= Kernels::kVnni) {
    return allowed == Kernels::kTiles && AskForTiles() ? Kernels::kTiles : Kernels::kVnni;
  }
  const bool asked_for = allowed == Kernels::kAvx2, faster = allowed > Kernels::kAvx2 && !HasVnniOfAvx2();
  if (avx2 && (asked_for || faster)) return Kernels::kAvx2;
#endif
  return Kernels::kAnywhere;
}

}  // namespace

Kernels FastestKernels() {
  static const Kernels fastest = Fastest(Allowed());
  return fastest;
}

}  // namespace pmsm

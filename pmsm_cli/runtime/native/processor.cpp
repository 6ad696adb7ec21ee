#include "processor.h"

#include <cstdlib>
#include <cstring>

#include "convolution_tiles.h"
#include "targets.h"

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

Kernels Fastest([[maybe_unused]] Kernels allowed) {
#ifdef PMSM_VNNI
  const auto may = [&](Kernels kernels, bool has) { return has && allowed >= kernels; };
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool vnni = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  if (may(Kernels::kVnni, vnni)) return allowed >= Kernels::kTiles && AskForTiles() ? Kernels::kTiles : Kernels::kVnni;
  if (may(Kernels::kAvx2, avx2)) return Kernels::kAvx2;
#endif
  return Kernels::kAnywhere;
}

}  // namespace

Kernels FastestKernels() {
  static const Kernels fastest = Fastest(Allowed());
  return fastest;
}

}  // namespace pmsm

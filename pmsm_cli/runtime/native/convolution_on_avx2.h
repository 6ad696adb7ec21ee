// The sums of convolutions of codes on processors that multiply pairs of bytes.

#ifndef PMSM_CONVOLUTION_ON_AVX2_H
#define PMSM_CONVOLUTION_ON_AVX2_H

#include "convolution_kernels.h"

namespace pmsm {

// As `Dense`, `Depthwise`, `DenseSums` and `DepthwiseSums` of convolution_kernels.h, sum by sum; `Depthwise` of what is tame.
void DenseOnAvx2(const DenseTile& tile, const Becoming& becoming, const Results& results);
void DepthwiseOnAvx2(const DepthwiseTile& tile, const Becoming& becoming, const Results& results);
void DenseSumsOnAvx2(const DenseTile& tile, const int32_t* bias, int32_t* sums);
void DepthwiseSumsOnAvx2(const DepthwiseTile& tile, const int32_t* bias, int32_t* sums);

}  // namespace pmsm

#endif

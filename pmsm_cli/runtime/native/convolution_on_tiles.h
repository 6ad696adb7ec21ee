// The sums of convolutions of codes, tile by tile.

#ifndef PMSM_CONVOLUTION_ON_TILES_H
#define PMSM_CONVOLUTION_ON_TILES_H

#include "convolution_kernels.h"

namespace pmsm {

// As `Dense` and `DenseSums` of convolution_kernels.h, sum by sum, while `TilesInUse`.
void DenseOnTiles(const DenseTile& tile, const Becoming& becoming, const Results& results);
void DenseSumsOnTiles(const DenseTile& tile, const int32_t* bias, int32_t* sums);

}  // namespace pmsm

#endif

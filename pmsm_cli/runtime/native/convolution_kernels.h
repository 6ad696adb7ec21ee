// The sums of convolutions of codes, and what becomes of them, by the fastest kernels that the processor has.

#ifndef PMSM_CONVOLUTION_KERNELS_H
#define PMSM_CONVOLUTION_KERNELS_H

#include "convolution.h"
#include "convolution_tiles.h"
#include "narrow_sums.h"

namespace pmsm {

// How many words of a run's products fit 16 bits, where kernels ask: by the weights of each of a block's vectors, for codes
// up to `most`.
struct Narrow {
  const NarrowSums* of_vectors;
  uint8_t most;

  size_t Words(size_t vector) const { return of_vectors[vector].Words(most); }
};

// Neighbouring places of one block of output channels, each of which reads all the bytes of a run.
struct DenseTile {
  const uint8_t* const* rows;  // the first run of the first place
  size_t stride;               // from one run's pointers to the next one's
  size_t runs, words;
  const Panel* panels;    // of the first place, where tiles multiply them, else null
  const int8_t* weights;  // of the block: [runs, words, vectors, lanes, kWord], vector by vector or in tiles where kernels want it
  Narrow narrow;
  Block block;
  size_t place, count;  // the first one, and how many
};

// Neighbouring places of one block of channels, each of which has a kernel of its own. What is kept for the block is in the
// order of `InterleavedChannel`, but for bounds.
struct DepthwiseTile {
  const uint8_t* const* taps;  // of the first place
  size_t count_of_taps, step;  // step: bytes from one place to the next one
  const int8_t* weights;       // of the block: [taps / kWord up, vectors, lanes, kWord]
  Narrow narrow;
  Block block;
  size_t place, count;
};

// How many places a vector of codes holds where all channels are one block of few: what is kept for it is there once for each.
inline size_t PlacesOfBlock(const Block& block) { return kBlock / block.channels; }

// So many neighbouring places lie side by side, in what is read and in what is written.
inline size_t PlacesTogether(const DepthwiseTile& tile, const Results& results) {
  return tile.step == tile.block.channels && results.channels == tile.block.channels ? PlacesOfBlock(tile.block) : 1;
}

// Which channel of a block is in a lane of a vector once four taps of 64 channels are shuffled into words.
inline size_t InterleavedChannel(size_t vector, size_t lane) { return lane / 4 * 16 + vector * 4 + lane % 4; }

// Of dense sums: while `TilesInUse`.
void Dense(const DenseTile& tile, const Becoming& becoming, const Results& results);
void Depthwise(const DepthwiseTile& tile, const Becoming& becoming, const Results& results);

// The sums themselves, [places, kBlock] in the order of channels. `bias` is the block's, in the order of what else is kept
// for it. What is behind a block's last vector is undefined, and so are places up to the next multiple of kPlacesTogether, for
// which there has to be room.
void DenseSums(const DenseTile& tile, const int32_t* bias, int32_t* sums);
void DepthwiseSums(const DepthwiseTile& tile, const int32_t* bias, int32_t* sums);

}  // namespace pmsm

#endif

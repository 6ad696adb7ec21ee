// Codes as processors read them that multiply tiles of bytes: Intel's AMX, of servers since 2023.

#ifndef PMSM_CONVOLUTION_TILES_H
#define PMSM_CONVOLUTION_TILES_H

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "aligned.h"
#include "convolution.h"

namespace pmsm {

constexpr size_t kTilePlaces = 16, kTileBytes = 64;  // the codes of a tile: so many places, so many bytes of each
constexpr size_t kTileWords = kTileBytes / kWord;
constexpr size_t kPlacesTogether = 2 * kTilePlaces;

// Whether the processor has tiles, and the operating system lets this process use them, now that it is asked.
bool AskForTiles();

// While there is one that is wanted, the thread may multiply tiles. Taking them up is not worth it for a few places.
class TilesInUse {
 public:
  explicit TilesInUse(bool wanted);
  ~TilesInUse();
  TilesInUse(const TilesInUse&) = delete;
  TilesInUse& operator=(const TilesInUse&) = delete;

 private:
  bool wanted_;
};

// A run's codes at 16 places: tiles that lie `next` apart, rows `row` apart; and what is left of less than 64 bytes, with
// zeros behind it.
struct Panel {
  const uint8_t *codes, *rest;
  size_t row, next;
};

// Where the codes of neighbouring places are found, [places / 16 up, runs]. What does not lie evenly in the input is copied.
class Panels {
 public:
  // `rows` are pointers to `runs` of so many bytes, `stride` apart, for all places and for as many more as make them a
  // multiple of 16.
  void Find(const uint8_t* const* rows, size_t stride, size_t runs, size_t bytes, size_t places);

  // So many places of so many bytes each, that the second cache keeps their copies while all output channels read them.
  static size_t MostPlaces(size_t bytes) { return kPlacesTogether * std::max<size_t>(1, kCopies / kPlacesTogether / bytes); }

  // Those of a place, a multiple of 16.
  const Panel* At(size_t place) const { return panels_.data() + place / kTilePlaces * runs_; }

 private:
  static constexpr size_t kCopies = 393'216;  // bytes

  std::vector<Panel> panels_;
  Aligned<uint8_t> room_;
  size_t runs_ = 0;
};

}  // namespace pmsm

#endif

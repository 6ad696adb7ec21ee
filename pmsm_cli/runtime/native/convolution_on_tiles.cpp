#include "convolution_on_tiles.h"

#include <algorithm>
#include <cstring>

#include "convolution_anywhere.h"
#include "convolution_tiles.h"
#include "sums_to_codes.h"
#include "targets.h"
#include "vectors.h"

#if defined(PMSM_VNNI) && defined(__linux__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define PMSM_TILES __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,amx-tile,amx-int8")))
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pmsm {

#ifdef PMSM_TILES
namespace {

static_assert(kPlacesTogether <= kMostPlaces, "pointers behind the last place are read");

// GCC does not say of its intrinsics that tiles read memory.
PMSM_INLINE void FinishWriting() { __asm__ volatile("" ::: "memory"); }

// Tiles of 16 rows of 64 bytes: 0 to 3 hold sums of places x channels, 4 and 5 codes, 6 and 7 weights.
struct alignas(kCacheLine) Shapes {
  uint8_t palette = 1, first_row = 0, nothing[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  Shapes() {
    std::fill_n(row_bytes, 8, static_cast<uint16_t>(kTileBytes));
    std::fill_n(rows, 8, static_cast<uint8_t>(kTilePlaces));
  }
};

PMSM_TILES void Take() {
  static const Shapes shapes;
  FinishWriting();
  _tile_loadconfig(&shapes);
}

PMSM_TILES void Release() { _tile_release(); }

// A run at 16 places, of `whole` tiles and `left` bytes.
PMSM_TILES Panel PanelAt(const uint8_t* const* rows, size_t whole, size_t left, uint8_t*& room) {
  Panel panel{rows[0], nullptr, static_cast<size_t>(rows[1] - rows[0]), kTileBytes};
  bool evenly = true;
  for (size_t i = 2; i < kTilePlaces; ++i) evenly &= static_cast<size_t>(rows[i] - rows[i - 1]) == panel.row;
  if (!evenly) {
    panel = {room, nullptr, kTileBytes, kTilePlaces * kTileBytes};
    for (size_t at = 0; at < whole * kTileBytes; at += kTileBytes) {
      for (size_t i = 0; i < kTilePlaces; ++i, room += kTileBytes) {
        _mm512_store_si512(room, _mm512_loadu_si512(rows[i] + at));
      }
    }
  }
  if (left) {
    panel.rest = room;
    for (size_t i = 0; i < kTilePlaces; ++i, room += kTileBytes) {
      _mm512_store_si512(room, _mm512_maskz_loadu_epi8((1ull << left) - 1, rows[i] + whole * kTileBytes));
    }
  }
  return panel;
}

// Two tiles of places, two vectors of channels, or one of either; all of a run's bytes that make up one tile.
template <bool kTwoPlaces, bool kTwoVectors>
PMSM_TILES PMSM_INLINE void Multiply(const uint8_t* first, size_t first_row, const uint8_t* second, size_t second_row,
                                     const int8_t*& weights) {
  _tile_loadd(6, weights, kTileBytes);
  _tile_loadd(4, first, first_row);
  _tile_dpbusd(0, 4, 6);
  weights += kTileWords * kTileBytes;
  if (kTwoVectors) {
    _tile_loadd(7, weights, kTileBytes);
    _tile_dpbusd(1, 4, 7);
    weights += kTileWords * kTileBytes;
  }
  if (kTwoPlaces) {
    _tile_loadd(5, second, second_row);
    _tile_dpbusd(2, 5, 6);
    if (kTwoVectors) _tile_dpbusd(3, 5, 7);
  }
}

// The sums of one or two vectors of channels at the places of one or two panels: [places, kBlock].
template <bool kTwoPlaces, bool kTwoVectors>
PMSM_TILES void SumUp(const DenseTile& tile, const Panel* panels, const int8_t*& weights, const int32_t* bias, int32_t* sums) {
  _tile_loadd(0, bias, 0);  // the same row 16 times
  if (kTwoVectors) _tile_loadd(1, bias + kLanes, 0);
  if (kTwoPlaces) _tile_loadd(2, bias, 0);
  if (kTwoPlaces && kTwoVectors) _tile_loadd(3, bias + kLanes, 0);
  const size_t whole = tile.words / kTileWords;
  for (size_t run = 0; run < tile.runs; ++run) {
    const Panel &first = panels[run], &second = panels[kTwoPlaces ? tile.runs + run : run];
    for (size_t at = 0; at < whole; ++at) {
      Multiply<kTwoPlaces, kTwoVectors>(first.codes + at * first.next, first.row, second.codes + at * second.next,
                                        second.row, weights);
    }
    if (tile.words % kTileWords) {
      Multiply<kTwoPlaces, kTwoVectors>(first.rest, kTileBytes, second.rest, kTileBytes, weights);
    }
  }
  constexpr size_t row = kBlock * sizeof(int32_t);
  _tile_stored(0, sums, row);
  if (kTwoVectors) _tile_stored(1, sums + kLanes, row);
  if (kTwoPlaces) _tile_stored(2, sums + kTilePlaces * kBlock, row);
  if (kTwoPlaces && kTwoVectors) _tile_stored(3, sums + kTilePlaces * kBlock + kLanes, row);
}

template <bool kTwoPlaces, size_t kOfBlock>
PMSM_TILES void SumUpBlock(const DenseTile& tile, const Panel* panels, const int32_t* bias, int32_t* sums) {
  const int8_t* weights = tile.weights;
  for (size_t n = 0; n + 1 < kOfBlock; n += 2) {
    SumUp<kTwoPlaces, true>(tile, panels, weights, bias + n * kLanes, sums + n * kLanes);
  }
  constexpr size_t last = kOfBlock - 1;
  if (kOfBlock % 2) SumUp<kTwoPlaces, false>(tile, panels, weights, bias + last * kLanes, sums + last * kLanes);
}

template <size_t kOfBlock>
PMSM_TILES void SumUpBlock(const DenseTile& tile, const Panel* panels, size_t places, const int32_t* bias, int32_t* sums) {
  places > kTilePlaces ? SumUpBlock<true, kOfBlock>(tile, panels, bias, sums)
                       : SumUpBlock<false, kOfBlock>(tile, panels, bias, sums);
}

// The sums of a block at all places, to where they are wanted, or to whatever takes them.
template <size_t kOfBlock>
PMSM_TILES void ToSums(const DenseTile& tile, const int32_t* bias, int32_t* sums) {
  const Panel* panels = tile.panels;
  for (size_t place = 0; place < tile.count; place += kPlacesTogether, panels += 2 * tile.runs) {
    SumUpBlock<kOfBlock>(tile, panels, std::min(kPlacesTogether, tile.count - place), bias, sums + place * kBlock);
  }
}

template <size_t kOfBlock, typename Taker>
PMSM_TILES void OnTiles(const DenseTile& tile, const int32_t* bias, const Taker& take) {
  alignas(kCacheLine) int32_t sums[kPlacesTogether * kBlock];
  const Panel* panels = tile.panels;
  for (size_t place = 0; place < tile.count; place += kPlacesTogether, panels += 2 * tile.runs) {
    const size_t wanted = std::min(kPlacesTogether, tile.count - place);
    take.Expect(place, place + wanted);
    SumUpBlock<kOfBlock>(tile, panels, wanted, bias, sums);
    for (size_t m = 0; m < wanted; ++m) {
      __m512i vectors[kOfBlock];
      for (size_t n = 0; n < kOfBlock; ++n) vectors[n] = _mm512_load_si512(sums + m * kBlock + n * kLanes);
      take(vectors, place + m);
    }
  }
}

// What is not tame.
template <size_t kOfBlock>
struct VectorsToAnyCodes {
  const DenseTile& tile;
  const Becoming& becoming;
  const Results& results;

  void operator()(const __m512i* sums, size_t place) const {
    alignas(kCacheLine) int32_t each[kOfBlock * kLanes];
    std::memcpy(each, sums, sizeof each);
    anywhere::BecomeAll(tile, becoming, results, each, place);
  }
  void Expect(size_t, size_t) const {}
};

template <size_t kOfBlock>
PMSM_TILES void ToCodes(const DenseTile& tile, const Becoming& becoming, const Results& results) {
  const BecomingOf here(becoming, results, tile.block, tile.place);
  const int32_t* bias = becoming.bias.data() + tile.block.slot;
  if (!becoming.tame) OnTiles<kOfBlock>(tile, anywhere::kNoBias, VectorsToAnyCodes<kOfBlock>{tile, becoming, results});
  else if (becoming.adds && becoming.fires) OnTiles<kOfBlock>(tile, bias, VectorsToCodes<kOfBlock, true, true>{here});
  else if (becoming.adds) OnTiles<kOfBlock>(tile, bias, VectorsToCodes<kOfBlock, true, false>{here});
  else if (becoming.fires) OnTiles<kOfBlock>(tile, bias, VectorsToCodes<kOfBlock, false, true>{here});
  else OnTiles<kOfBlock>(tile, bias, VectorsToCodes<kOfBlock, false, false>{here});
}

}  // namespace

bool AskForTiles() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned tiles = 1u << 24, of_bytes = 1u << 25;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & tiles) || !(d & of_bytes)) return false;
  // Linux keeps registers of this size from processes that have not asked for them; threads have what their process has.
  constexpr long ask = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, ask, tile_data) == 0;
}

TilesInUse::TilesInUse(bool wanted) : wanted_(wanted) {
  if (wanted_) Take();
}

TilesInUse::~TilesInUse() {
  if (wanted_) Release();
}

void Panels::Find(const uint8_t* const* rows, size_t stride, size_t runs, size_t bytes, size_t places) {
  const size_t whole = bytes / kTileBytes, left = bytes % kTileBytes, count = (places + kTilePlaces - 1) / kTilePlaces;
  const size_t most = count * runs * (whole + (left > 0)) * kTilePlaces * kTileBytes;
  runs_ = runs;
  panels_.clear();
  if (room_.size() < most) room_.resize(most);
  uint8_t* room = room_.data();
  for (size_t i = 0; i < count; ++i) {
    for (size_t run = 0; run < runs; ++run) {
      panels_.push_back(PanelAt(rows + run * stride + i * kTilePlaces, whole, left, room));
    }
  }
  FinishWriting();
}

void DenseOnTiles(const DenseTile& tile, const Becoming& becoming, const Results& results) {
  switch (tile.block.Vectors()) {
    case 1: return ToCodes<1>(tile, becoming, results);
    case 2: return ToCodes<2>(tile, becoming, results);
    case 3: return ToCodes<3>(tile, becoming, results);
    default: return ToCodes<4>(tile, becoming, results);
  }
}

void DenseSumsOnTiles(const DenseTile& tile, const int32_t* bias, int32_t* sums) {
  switch (tile.block.Vectors()) {
    case 1: return ToSums<1>(tile, bias, sums);
    case 2: return ToSums<2>(tile, bias, sums);
    case 3: return ToSums<3>(tile, bias, sums);
    default: return ToSums<4>(tile, bias, sums);
  }
}

#else

bool AskForTiles() { return false; }
TilesInUse::TilesInUse(bool wanted) : wanted_(wanted) {}
TilesInUse::~TilesInUse() {}
void Panels::Find(const uint8_t* const*, size_t, size_t, size_t, size_t) {}
void DenseOnTiles(const DenseTile&, const Becoming&, const Results&) {}
void DenseSumsOnTiles(const DenseTile&, const int32_t*, int32_t*) {}

#endif

}  // namespace pmsm

// C = act(A B) by register tiles: what 1x1 convolutions are made of.
//
// A tile holds `rows` x `vectors` sums in registers: with the AVX-512 file of 32 vectors 6 x 4, 8 x 3, 12 x 2 or 16 x 1, so
// that of every 4 (3, 2, 1) loaded vectors of B and 6 (8, 12, 16) broadcast elements of A 24 (24, 24, 16) products are made.
// B comes in panels of at most kMaxVectors vectors of columns, stored one after the other as [k][columns], padded with zeros
// to whole vectors; panels are balanced, so that no thin one is left over.  Every sum runs over k in order: its bits depend
// neither on the tile nor on the panel it falls into.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

inline int64_t up(int64_t a, int64_t b) { return (a + b - 1) / b; }

#if defined(__AVX512F__)
template <class A>
inline constexpr int kMaxVectors = std::is_same_v<A, float> ? 4 : 2;
inline constexpr bool kPrefetches = true;
#else
// A tile's 8 loads take 4 of the 6 cycles that its 12 products need: two prefetches more and the load ports are what it
// waits for (a tenth to a quarter of the time on Zen 2).
inline constexpr bool kPrefetches = false;
template <class A>
inline constexpr int kMaxVectors = 2;
#endif
template <class A>
constexpr int tile_rows(int vectors) {
  if (kMaxVectors<A> == 2) return vectors == 2 ? 6 : 8;
  return vectors == 4 ? 6 : vectors == 3 ? 8 : vectors == 2 ? 12 : 16;
}

// How n columns are cut into panels.
template <class A>
struct Panels {
  static constexpr int N = V<A>::N;
  int64_t vectors, count;
  explicit Panels(int64_t n) : vectors(up(n, N)), count(up(vectors, kMaxVectors<A>)) {}
  int size(int64_t p) const { return static_cast<int>(vectors / count + (p < vectors % count)); }
  int64_t begin(int64_t p) const { return p * (vectors / count) + std::min(p, vectors % count); }  // in vectors
  int64_t most() const { return size(0); }
};

inline constexpr int64_t kNoOffset = 0;

// C[i, j] = min(high, max(low, scale[i] * sum_k A[i, k] B[k, j] + shift[i or j])) + add[i, j] for the columns of one panel.
template <class A>
struct PanelArgs {
  const A* a;
  int64_t a_row, rows, depth;      // A is [rows, depth] ...
  const A* b;                      // the panel, or some neighbouring columns of one
  int64_t b_row;                   // of the whole panel
  int vectors, last;               // of columns; valid lanes of the last one
  const A* column_shift;           // padded to whole vectors, or null
  const A *row_scale, *row_shift;  // both or neither
  A* c;
  int64_t c_row;
  const A* add;  // as c, or null
  V<A> low, high;
  // ... or a row of A is `runs` runs of `depth` elements each, the i-th at run_a[i] and of products with B from row run_b[i].
  int runs = 1;
  const int64_t *run_a = &kNoOffset, *run_b = &kNoOffset;
};

template <class A, int ROWS, int VECTORS>
inline void tile(const PanelArgs<A>& p, const int64_t row, const A* ahead) {
  using VA = V<A>;
  constexpr int N = VA::N, GROUPS = (ROWS + 2) / 3;
  VA acc[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) acc[i][j] = VA(A(0));
  // One pointer for three rows: x86 addresses p, p + step and p + 2 * step alike.
  const int64_t step = p.a_row;
  const A* a[GROUPS];
  const A* next = p.a + (row + ROWS) * step;  // rows of the next tile, on their way to the L1 cache
  for (int r = 0; r < p.runs; ++r) {
    const A* b = p.b + p.run_b[r] * p.b_row;
#pragma GCC unroll 6
    for (int g = 0; g < GROUPS; ++g) a[g] = p.a + p.run_a[r] + (row + g * 3) * step;
    for (int64_t k = 0; k < p.depth; ++k, b += p.b_row, next += ROWS) {
      if constexpr (kPrefetches) __builtin_prefetch(next);
      if constexpr (kPrefetches) __builtin_prefetch(ahead, 0, 2);
      ahead += 64 / sizeof(A);
      VA column[VECTORS];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) column[j] = vload(b + j * N);
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) {
        const VA v(a[i / 3][i % 3 * step]);
#pragma GCC unroll 4
        for (int j = 0; j < VECTORS; ++j) acc[i][j] = fma(v, column[j], acc[i][j]);
      }
#pragma GCC unroll 6
      for (int g = 0; g < GROUPS; ++g) ++a[g];
    }
  }
  // By value: what is stored might otherwise be a field of p.
  const VA low = p.low, high = p.high;
  const int64_t c_row = p.c_row;
  A* c = p.c + row * c_row;
  const A* add = p.add ? p.add + row * c_row : nullptr;
  if (p.row_scale) {
    const A *scale = p.row_scale + row, *shift = p.row_shift + row;
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) acc[i][j] = fma(acc[i][j], VA(scale[i]), VA(shift[i]));
  } else if (p.column_shift) {  // last: sums that begin with a large shift round every product to its last place
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) {
      const VA shift = vload(p.column_shift + j * N);
#pragma GCC unroll 16
      for (int i = 0; i < ROWS; ++i) acc[i][j] = acc[i][j] + shift;
    }
  }
  if (const int last = p.last; last < N) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i, c += c_row) {
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) {
        VA v = m_min(high, m_max(low, acc[i][j]));
        const int lanes = j == VECTORS - 1 ? last : N;
        if (add) v = v + vload_n(add + i * c_row + j * N, lanes);
        store_n(c + j * N, v, lanes);
      }
    }
  } else if (add) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i, c += c_row, add += c_row)
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) store(c + j * N, m_min(high, m_max(low, acc[i][j])) + vload(add + j * N));
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i, c += c_row)
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) store(c + j * N, m_min(high, m_max(low, acc[i][j])));
  }
}

template <class A, int ROWS, int VECTORS>
inline void tile_of(int rows, const PanelArgs<A>& p, int64_t row, const A* ahead) {
  if (rows == ROWS) return tile<A, ROWS, VECTORS>(p, row, ahead);
  if constexpr (ROWS > 1) tile_of<A, ROWS - 1, VECTORS>(rows, p, row, ahead);
}

template <class A, int VECTORS>
void panel_of(const PanelArgs<A>& p) {
  constexpr int MOST = tile_rows<A>(VECTORS);
  const int64_t tiles = up(p.rows, MOST);
  for (int64_t t = 0, row = 0; t < tiles; ++t) {  // evenly: no thin tile at the end
    const int rows = static_cast<int>(p.rows / tiles + (t < p.rows % tiles));
    // A cache line of the next panel for each k of a tile, until all of it is on its way to the L2 cache.
    const int64_t line = 64 / static_cast<int64_t>(sizeof(A)), size = p.depth * p.b_row;
    const A* ahead = p.b + (t * p.depth * line < size ? size + t * p.depth * line : 0);
    tile_of<A, MOST, VECTORS>(rows, p, row, ahead);
    row += rows;
  }
}

template <class A>
void panel(const PanelArgs<A>& p) {
  if constexpr (kMaxVectors<A> == 4) {
    if (p.vectors == 4) return panel_of<A, 4>(p);
    if (p.vectors == 3) return panel_of<A, 3>(p);
  }
  if (p.vectors == 2) return panel_of<A, 2>(p);
  panel_of<A, 1>(p);
}

}  // namespace
}  // namespace ck::cpu::CK_ISA

// Depthwise convolution, NCHW.  2e bytes per output at stride 1, 5e at stride 2, as NHWC.
//
// A block owns whole (n, c) planes if several fit (a hundred of 7 x 7), else a strip of rows of one plane.  What it reads
// and what it writes are each one contiguous range of memory, whatever the width, so both travel as aligned 16-byte accesses
// through shared memory, unchanged: the kernel does not spread rows out, and where a window reaches over the end of its row
// what it reads there is masked.  Rows outside the image are read from a few zeros.  A thread owns some column steps and
// walks down its strip with the ring of dwconv_tile.cuh; k * k weights of its one channel stay in registers.
#pragma once
#include <cstring>

#include "device/async_copy.cuh"
#include "dwconv_tile.cuh"

namespace ck::cuda {

constexpr size_t kNchwShared = 24 * 1024;  // aimed at: 8 blocks of 128 threads per SM

// Column steps per thread.
template <int K, Step D>
constexpr int kNchwColumns = D == Step::s1   ? 7
                             : D == Step::s2 ? 4
                                             : 2;

// Blocks of 128 threads per SM that the registers leave room for.
template <int K, Step D>
constexpr int kNchwBlocks = K == 7   ? 3
                            : K == 5 ? 4
                                     : 7;

// v where the mask is all ones, 0 where it is 0.
template <class T>
__device__ inline T masked(T v, unsigned mask) {
  using Bits = std::conditional_t<sizeof(T) == 2, unsigned short, unsigned>;
  Bits bits;
  std::memcpy(&bits, &v, sizeof v);
  bits &= static_cast<Bits>(mask);
  std::memcpy(&v, &bits, sizeof v);
  return v;
}

template <class T, int K, Step D>
__global__ void __launch_bounds__(kDwConvThreads, kNchwBlocks<K, D>) dwconv_nchw_kernel(const DwConvTask a) {
  using G = Taps<K, D>;
  constexpr int F = kNchwColumns<K, D>, N = 16 / sizeof(T);
  using Ring = Window<K, D, F, 1>;
  constexpr int COLS = Ring::kColumns, OUT_COLS = Ring::kOutColumns;
  using Vector = Vec<T, N>;
  CK_DYN_SHARED(shared, T);

  const int tid = threadIdx.x, threads = blockDim.x;
  const int H = static_cast<int>(a.s.H), W = static_cast<int>(a.s.W), P = static_cast<int>(a.s.P),
            Q = static_cast<int>(a.s.Q);
  const int64_t all_planes = a.s.N * a.s.C;
  const int row_tile = static_cast<int>(blockIdx.x % a.tiles);
  const int64_t plane0 = static_cast<int64_t>(blockIdx.x / a.tiles) * a.planes;
  const int planes = static_cast<int>(min(static_cast<int64_t>(a.planes), all_planes - plane0));
  const int step0 = row_tile * a.strips * a.strip;
  const int top = (step0 - (G::kFlight - 1)) * G::kIn + a.in_row;  // image row of the tile's first row

  // zeros, the input with room for what a window reads beside it, the output
  T* const zeros = shared;
  T* const tile = zeros + a.tile_begin;
  T* const out = tile + a.tile_size;
  for (int i = tid; i < COLS; i += threads) zeros[i] = from_f<T>(0.f);
  const int begin = a.planes > 1 ? 0 : max(0, top), end = a.planes > 1 ? H : min(H, top + a.tile_rows);
  const int64_t base = (plane0 * H + begin) * W, total = all_planes * H * W;
  const int ahead = static_cast<int>(base % N);  // elements of the first vector before the range
  {
    AsyncCopies copies;
    const int count = end > begin ? (planes - 1) * H * W + (end - begin) * W : 0;
    const T* x = static_cast<const T*>(a.x) + (base - ahead);
    const int64_t left = total - (base - ahead);
    for (int i = tid * N; i < count + ahead; i += threads * N) {
      if (i + N <= left) copies.copy(tile + i, x + i, true);
      else
        for (int j = i; j < left; ++j) tile[j] = x[j];
    }
    copies.commit();
    copies.wait<0>();
  }
  __syncthreads();

  const int out_begin = a.planes > 1 ? 0 : max(0, step0 * G::kOut + a.out_row);
  const int out_end = a.planes > 1 ? P : min(P, (step0 + a.strips * a.strip) * G::kOut + a.out_row);
  const int64_t out_base = (plane0 * P + out_begin) * Q;
  const int lead = static_cast<int>(out_base % N);  // so that tile and memory have the same alignment
  const int items = planes * a.strips * a.groups, per_plane = a.strips * a.groups;
  // the statistics follow the output tile
  const int rows_out = a.planes > 1 ? P : a.strips * a.strip * G::kOut;
  Moments* moments = reinterpret_cast<Moments*>(out + (N - 1 + a.planes * rows_out * Q + N - 1) / N * N);

  for (int item = tid; item < items; item += threads) {
    const int group = item % a.groups, first = item / a.groups % a.strips * a.strip, plane = item / per_plane;
    const int c = static_cast<int>((plane0 + plane) % a.s.C);
    const float scale = a.scale ? a.scale[c] : 1.f;
    float w[K * K];
    const T* weights = static_cast<const T*>(a.weight) + static_cast<int64_t>(c) * (K * K);
#pragma unroll
    for (int k = 0; k < K * K; ++k) w[k] = scale * to_f(weights[a.flip ? K * K - 1 - k : k]);
    auto weight = [&](int i, int j, float (&r)[1]) { r[0] = w[i * K + j]; };
    const float shift[1] = {a.shift ? a.shift[c] : 0.f};

    const int col = group * (F * G::kIn) + a.in_col, out_col = group * (F * G::kOut) + a.out_col;
    unsigned mask[COLS];
#pragma unroll
    for (int j = 0; j < COLS; ++j) mask[j] = col + j >= 0 && col + j < W ? ~0u : 0u;
    const int columns = min(OUT_COLS, Q - out_col);
    int row = top + first * G::kIn;
    const T* source = tile + ahead + (plane * (end - begin) + row - begin) * W + col;
    Ring ring;
    ring.fill(shift);
    Moments sums;
    for (int t = 1 - G::kFlight; t < a.strip; ++t) {
      ring.advance(shift);
#pragma unroll
      for (int s = 0; s < G::kIn; ++s, ++row, source += W) {
        const T* const from = row >= 0 && row < H ? source : zeros;
        auto load = [&](int j, float (&x)[1]) { x[0] = to_f(masked(from[j], mask[j])); };
        ring.template add<true>(load, s, weight);
      }
      if (t < 0) continue;

      float (&z)[G::kOut][OUT_COLS][1] = ring.acc[0];
      const int out_row = (step0 + first + t) * G::kOut + a.out_row;
      if (a.partials && out_row < P) {
#pragma unroll
        for (int j = 0; j < OUT_COLS; ++j)
          if (j < columns) sums.add(z[0][j][0]);
      }
      activate_all<G::kOut * OUT_COLS>(&z[0][0][0], a.act, a.slope);
#pragma unroll
      for (int o = 0; o < G::kOut; ++o) {
        if (out_row + o < 0 || out_row + o >= P) continue;
        T* to = out + lead + (plane * (out_end - out_begin) + out_row + o - out_begin) * Q + out_col;
        const T* residual = a.residual
                                ? static_cast<const T*>(a.residual) + ((plane0 + plane) * P + out_row + o) * Q + out_col
                                : nullptr;
#pragma unroll
        for (int j = 0; j < OUT_COLS; ++j)
          if (j < columns && (D != Step::up2 || out_col + j >= 0))
            to[j] = from_f<T>(z[o][j][0] + (residual ? to_f(residual[j]) : 0.f));
      }
    }
    if (a.partials) sums.finish(), moments[item] = sums;
  }
  __syncthreads();

  {  // packed outputs -> global
    const int count = out_end > out_begin ? planes * (out_end - out_begin) * Q : 0;
    T* y = static_cast<T*>(a.y) + (out_base - lead);
    for (int i = tid; i * N < lead + count; i += threads) {
      if (i * N >= lead && (i + 1) * N <= lead + count) {
        reinterpret_cast<Vector*>(y)[i] = reinterpret_cast<const Vector*>(out)[i];
      } else {
        for (int j = i * N; j < (i + 1) * N; ++j)
          if (j >= lead && j < lead + count) y[j] = out[j];
      }
    }
  }
  if (!a.partials) return;
  for (int w = 1; w < per_plane; w *= 2) {  // a plane's items merge pairwise, in a fixed order
    for (int item = tid; item < items; item += threads) {
      const int i = item % per_plane;
      if (i % (2 * w) == 0 && i + w < per_plane) moments[item].merge(moments[item + w]);
    }
    __syncthreads();
  }
  for (int p = tid; p < planes; p += threads) {
    const int64_t C = a.s.C, n = (plane0 + p) / C, c = (plane0 + p) % C, part = n * a.tiles + row_tile;
    a.partials[part * C + c] = moments[p * per_plane].mean;
    a.partials[(a.partial_rows + part) * C + c] = moments[p * per_plane].m2;
    if (c == 0) a.partials[2 * a.partial_rows * C + part] = moments[p * per_plane].n;
  }
}

// Shared bytes of one block of the plan in a, which gets the places of its parts.
template <int K, Step D>
inline size_t nchw_shared(DwConvTask& a, int e) {
  using G = Taps<K, D>;
  constexpr int F = kNchwColumns<K, D>, COLS = Window<K, D, F, 1>::kColumns;
  const int64_t n = 16 / e;
  const auto vectors = [n](int64_t elements) { return (elements + n - 1) / n * n; };
  a.tile_rows = (a.strips * a.strip + G::kFlight - 1) * G::kIn;
  const int64_t rows_in = a.planes > 1 ? a.s.H : std::min<int64_t>(a.tile_rows, a.s.H);
  const int64_t rows_out = a.planes > 1 ? a.s.P : int64_t(a.strips) * a.strip * G::kOut;
  const int64_t before = vectors(COLS) + vectors(std::max(0, -a.in_col));
  const int64_t after = std::max<int64_t>(0, (a.groups - 1) * F * G::kIn + a.in_col + COLS - a.s.W);
  const int64_t in = vectors(n - 1 + a.planes * rows_in * a.s.W + after);
  const int64_t out = vectors(n - 1 + a.planes * rows_out * a.s.Q);
  a.tile_begin = static_cast<int>(before), a.tile_size = static_cast<int>(in);
  return (before + in + out) * e + (a.partials ? sizeof(Moments) * a.planes * a.strips * a.groups : 0);
}

// blocks = 0: a row is too wide for shared memory.
template <int K, Step D>
inline Launch plan_nchw(DwConvTask& a, int columns, int e) {
  const int64_t planes = a.s.N * a.s.C;
  a.groups = (columns + kNchwColumns<K, D> - 1) / kNchwColumns<K, D>;
  a.strip = (a.steps + (a.steps + 7) / 8 - 1) / ((a.steps + 7) / 8);  // at most 8, evenly divided
  auto whole = [&] { return (a.steps + a.strip - 1) / a.strip; };
  auto tiles = [&] { return (a.steps + a.strips * a.strip - 1) / (a.strips * a.strip); };
  a.planes = 1, a.strips = whole();
  if (a.groups * a.strips > kDwConvThreads) a.strips = max(1, kDwConvThreads / a.groups);
  while (a.strips > 1 && nchw_shared<K, D>(a, e) > kNchwShared) --a.strips;
  while (a.strip > 1 && nchw_shared<K, D>(a, e) > kNchwShared) --a.strip;
  while (a.strips > 1 && planes * tiles() < 264) --a.strips;
  a.tiles = tiles();
  if (a.tiles == 1) {
    auto fits = [&] {
      return a.planes * a.strips * a.groups <= kDwConvThreads && nchw_shared<K, D>(a, e) <= kNchwShared;
    };
    while (planes / (a.planes + 1) >= 264 && (++a.planes, fits())) {
    }
    if (a.planes > 1 && !fits()) --a.planes;
  }
  const size_t shared = nchw_shared<K, D>(a, e);
  if (shared > 48 * 1024) return {0, dim3(), 0};
  a.partial_rows = a.s.N * a.tiles;
  const int items = a.planes * a.strips * a.groups;
  return {(planes + a.planes - 1) / a.planes * a.tiles, dim3(min(kDwConvThreads, (items + 31) / 32 * 32)), shared};
}

}  // namespace ck::cuda

// Depthwise convolution, NCHW.  2e bytes per output at stride 1, 5e at stride 2, as NHWC.
//
// A block owns whole (n, c) planes if several fit (64 planes of 7 x 7, 16 of 14 x 14), else a strip of rows of one plane.
// What it reads and what it writes are each one contiguous range of memory, whatever the width, so both travel as aligned
// 16-byte accesses through shared memory: in, scattered into a zero-padded tile; out, packed.  A thread owns 4 column
// steps and walks down its strip with the ring of dwconv_tile.cuh; k * k weights of its one channel stay in registers.
#pragma once
#include "dwconv_tile.cuh"

namespace ck::cuda {

constexpr int kNchwColumns = 4;
constexpr size_t kNchwShared = 24 * 1024;  // aimed at: 8 blocks of 128 threads per SM

template <class T, int K, Step D>
__global__ void __launch_bounds__(128, K == 7           ? 3
                                       : D == Step::up2 ? 4
                                       : K == 3         ? 7
                                                        : 5) dwconv_nchw_kernel(const DwConvTask a) {
  using G = Taps<K, D>;
  using Ring = Window<K, D, kNchwColumns, 1>;
  constexpr int COLS = Ring::kColumns, OUT_COLS = Ring::kOutColumns, CHUNKS = (COLS + 3) / 4, N = 16 / sizeof(T);
  using Vector = Vec<T, N>;
  CK_DYN_SHARED(shared, float);

  const int tid = threadIdx.x, threads = blockDim.x;
  const int H = static_cast<int>(a.s.H), W = static_cast<int>(a.s.W), P = static_cast<int>(a.s.P),
            Q = static_cast<int>(a.s.Q);
  const int64_t all_planes = a.s.N * a.s.C;
  const int row_tile = static_cast<int>(blockIdx.x % a.tiles);
  const int64_t plane0 = static_cast<int64_t>(blockIdx.x / a.tiles) * a.planes;
  const int planes = static_cast<int>(min(static_cast<int64_t>(a.planes), all_planes - plane0));
  const int step0 = row_tile * a.strips * a.strip;
  const int top = (step0 - (G::kFlight - 1)) * G::kIn + a.in_row;  // image row of the tile's first row

  const int tile_size = a.planes * a.tile_rows * a.tile_width;
  T* tile = reinterpret_cast<T*>(shared);
  T* out = tile + (tile_size + N - 1) / N * N;
  for (int i = tid; i < (tile_size + N - 1) / N; i += threads)
    reinterpret_cast<uint4*>(tile)[i] = make_uint4(0, 0, 0, 0);
  __syncthreads();

  {  // global -> tile
    const int begin = a.planes > 1 ? 0 : max(0, top), end = a.planes > 1 ? H : min(H, top + a.tile_rows);
    const int64_t base = (plane0 * H + begin) * W, total = all_planes * H * W;
    const int count = end > begin ? (planes - 1) * H * W + (end - begin) * W : 0;
    const int64_t vector0 = base / N;
    const int vectors = count ? static_cast<int>((base + count - 1) / N - vector0 + 1) : 0;
    const T* x = static_cast<const T*>(a.x);
    for (int i = tid; i < vectors; i += threads) {
      const int64_t k = (vector0 + i) * N;
      const int offset = static_cast<int>(k - base);  // of the vector's first element in the range; may be negative
      Vector v;
      if (k + N <= total) {
        v = *reinterpret_cast<const Vector*>(x + k);
      } else {
#pragma unroll
        for (int j = 0; j < N; ++j) v.v[j] = k + j < total ? x[k + j] : from_f<T>(0.f);
      }
      const int start = max(offset, 0);
      int plane = a.planes > 1 ? start / (H * W) : 0;
      int row = (start - plane * H * W) / W;
      int col = start - plane * H * W - row * W;
      row += begin;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        if (offset + j < 0 || offset + j >= count) continue;
        const int r = row - top, q = col - a.in_col;
        if (r >= 0 && r < a.tile_rows && q >= 0 && q < a.tile_width)
          tile[(plane * a.tile_rows + r) * a.tile_width + q] = v.v[j];
        if (++col == W) {
          col = 0;
          if (++row == H && a.planes > 1) row = 0, ++plane;
        }
      }
    }
  }
  __syncthreads();

  const int out_begin = a.planes > 1 ? 0 : max(0, step0 * G::kOut + a.out_row);
  const int out_end = a.planes > 1 ? P : min(P, (step0 + a.strips * a.strip) * G::kOut + a.out_row);
  const int64_t out_base = (plane0 * P + out_begin) * Q;
  const int lead = static_cast<int>(out_base % N);  // so that tile and memory have the same alignment
  const int items = planes * a.strips * a.groups, per_plane = a.strips * a.groups;
  // the statistics follow the output tile
  Moments* moments = reinterpret_cast<Moments*>(
      out + (a.planes * (a.planes > 1 ? P : a.strips * a.strip * G::kOut) * Q + 2 * N - 1) / N * N);

  for (int item = tid; item < items; item += threads) {
    const int group = item % a.groups, first = item / a.groups % a.strips * a.strip, plane = item / per_plane;
    const int c = static_cast<int>((plane0 + plane) % a.s.C);
    float w[K * K];
    const T* weights = static_cast<const T*>(a.weight) + static_cast<int64_t>(c) * (K * K);
#pragma unroll
    for (int k = 0; k < K * K; ++k) w[k] = to_f(weights[a.flip ? K * K - 1 - k : k]);
    auto weight = [&](int i, int j, float (&r)[1]) { r[0] = w[i * K + j]; };
    const float scale = a.scale ? a.scale[c] : 1.f, shift = a.shift ? a.shift[c] : 0.f;

    const T* source = tile + (plane * a.tile_rows + first * G::kIn) * a.tile_width + group * (kNchwColumns * G::kIn);
    const int out_col = group * (kNchwColumns * G::kOut) + a.out_col;
    const int columns = min(OUT_COLS, Q - out_col);
    int row = top + first * G::kIn;
    Ring ring;
    ring.clear();
    Moments sums;
    for (int t = 1 - G::kFlight; t < a.strip; ++t) {
      ring.advance();
#pragma unroll
      for (int s = 0; s < G::kIn; ++s) {
        if (row >= 0 && row < H) {
          float now[CHUNKS * 4][1];
#pragma unroll
          for (int q = 0; q < CHUNKS; ++q) {
            const Vec<T, 4> v = reinterpret_cast<const Vec<T, 4>*>(source)[q];
#pragma unroll
            for (int j = 0; j < 4; ++j) now[q * 4 + j][0] = to_f(v.v[j]);
          }
          ring.add(reinterpret_cast<const float (&)[COLS][1]>(now), s, t, a.strip, weight);
        }
        ++row, source += a.tile_width;
      }
      if (t < 0) continue;

      float (&z)[G::kOut][OUT_COLS][1] = ring.acc[0];
      const int out_row = (step0 + first + t) * G::kOut + a.out_row;
      if (a.partials && out_row < P) {
#pragma unroll
        for (int j = 0; j < OUT_COLS; ++j)
          if (j < columns) sums.add(z[0][j][0]);
      }
#pragma unroll
      for (int o = 0; o < G::kOut; ++o)
#pragma unroll
        for (int j = 0; j < OUT_COLS; ++j) z[o][j][0] = z[o][j][0] * scale + shift;
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

// Shared bytes of one block of the plan in a; the same expressions as in the kernel.
template <int K, Step D>
inline size_t nchw_shared(DwConvTask& a, int e) {
  using G = Taps<K, D>;
  constexpr int chunks = (Window<K, D, kNchwColumns, 1>::kColumns + 3) / 4;
  a.tile_rows = (a.strips * a.strip + G::kFlight - 1) * G::kIn;
  a.tile_width = (a.groups - 1) * kNchwColumns * G::kIn + chunks * 4;
  const int64_t n = 16 / e, tile = (int64_t(a.planes) * a.tile_rows * a.tile_width + n - 1) / n * n;
  const int64_t rows = a.planes > 1 ? a.s.P : int64_t(a.strips) * a.strip * G::kOut;
  const int64_t out = (a.planes * rows * a.s.Q + 2 * n - 1) / n * n;
  return (tile + out) * e + (a.partials ? sizeof(Moments) * a.planes * a.strips * a.groups : 0);
}

// blocks = 0: a row is too wide for shared memory.
template <int K, Step D>
inline Launch plan_nchw(DwConvTask& a, int columns, int e) {
  const int64_t planes = a.s.N * a.s.C;
  a.groups = (columns + kNchwColumns - 1) / kNchwColumns;
  a.strip = (a.steps + (a.steps + 7) / 8 - 1) / ((a.steps + 7) / 8);  // at most 8, evenly divided
  auto whole = [&] { return (a.steps + a.strip - 1) / a.strip; };
  auto tiles = [&] { return (a.steps + a.strips * a.strip - 1) / (a.strips * a.strip); };
  a.planes = 1, a.strips = whole();
  if (a.groups * a.strips > 128) a.strips = max(1, 128 / a.groups);
  while (a.strips > 1 && nchw_shared<K, D>(a, e) > kNchwShared) --a.strips;
  while (a.strip > 1 && nchw_shared<K, D>(a, e) > kNchwShared) --a.strip;
  while (a.strips > 1 && planes * tiles() < 264) --a.strips;
  a.tiles = tiles();
  if (a.tiles == 1) {
    auto fits = [&] { return a.planes * a.strips * a.groups <= 128 && nchw_shared<K, D>(a, e) <= kNchwShared; };
    while (planes / (a.planes + 1) >= 264 && (++a.planes, fits())) {
    }
    if (a.planes > 1 && !fits()) --a.planes;
  }
  const size_t shared = nchw_shared<K, D>(a, e);
  if (shared > 48 * 1024) return {0, dim3(), 0};
  a.partial_rows = a.s.N * a.tiles;
  const int items = a.planes * a.strips * a.groups;
  return {(planes + a.planes - 1) / a.planes * a.tiles, dim3(min(128, (items + 31) / 32 * 32)), shared};
}

}  // namespace ck::cuda

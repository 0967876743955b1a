// Depthwise convolution, NHWC.  2e bytes per output at stride 1, 5e at stride 2 (e = bytes per element): memory-bound for
// k = 3, at the knee for k = 5, bound by fp32 FMAs for k = 7.
//
// A block owns some channels and is a worker: it walks down an equal share of the rows of all images.  Rows come ahead of
// their use by asynchronous copies into slots of shared memory; the copies write the zeros of the padding as well, so that
// the arithmetic knows no edge.  A thread owns V neighbouring channels x F column steps and has a ring of partial sums
// (dwconv_tile.cuh): it reads a row once, and adds it to every output that it touches.  blockDim = (channel vectors, groups
// of columns).
//
// What decides is instructions: at the copy rate of an H200 there is time for 28 of them per output of halves.  For k = 3,
// 9 are the products, 1.5 conversions; the batch norm's scale is multiplied into the weights and its shift is what the sums
// begin with, so neither costs anything.  V is 4 rather than the 8 halves of a 16-byte access: with 8, weights and ring
// need 170 registers for k = 3.  k = 5 keeps its 25 x 2 weights in registers, k = 7 reads them from shared memory, where 7
// columns share each read.
//
// Measured on an H200, halves, batch 128 (benchmarks/results/gpu-nvidia-h200-2026-11-26-b/dwconv-warm.txt): k = 3 at 64 to
// 75 % of the copy rate, k = 5 at 40 %, k = 7 at 31 %.  The eleven warps of an SM issue in 58 % of the cycles; four columns a
// thread, for sixteen warps, were slower: 78 against 70 us for 32 channels of 112 x 112, 88 against 67 with k = 5.
#pragma once
#include "device/async_copy.cuh"
#include "dwconv_tile.cuh"

namespace ck::cuda {

constexpr size_t kNhwcShared = 72 * 1024;  // of a block at most: three per SM

// Column steps per thread: maps are 7, 14, 28, 56 or 112 columns wide.
template <int K, Step D>
constexpr int kNhwcColumns = D == Step::s1   ? 7
                             : D == Step::s2 ? 4
                                             : 2;
// Steps whose rows are on their way while those of another are used.
template <Step D>
constexpr int kNhwcAhead = D == Step::s2 ? 2 : 3;

// Blocks of 128 threads per SM that the registers leave room for.
template <int K, Step D, int V, bool STATS>
constexpr int kNhwcBlocks = D == Step::s1 && STATS && (V == 4 || K > 3) ? 2
                            : D == Step::s1 || STATS || D == Step::up2  ? 3
                                                                        : 4;

// Part of a worker's share: consecutive steps of one image and one block's columns.
template <class G>
struct NhwcStrip {
  int64_t n;
  int group;         // first column step / F
  unsigned outputs;  // steps that finish outputs; before them
  unsigned warm_up;  // those in which the first outputs begin, without those above the image, which add nothing;
  int position;      // the first of all

  // From the global step `at` on: images, column tiles, steps are counted through.
  __device__ NhwcStrip(const DwConvTask& a, unsigned at, unsigned end) {
    const unsigned strip = at / a.steps;
    const int first = static_cast<int>(at - strip * a.steps);
    outputs = min(a.steps - first, end - at);
    const int in_image = -((a.in_row + G::kIn - 1) >> (G::kIn - 1));  // the first step with a row in the image
    position = max(first + 1 - G::kFlight, min(first, in_image));
    warm_up = static_cast<unsigned>(first - position);
    n = strip / a.tiles;
    group = static_cast<int>(strip % a.tiles) * blockDim.y;
  }
};

template <class T, int K, Step D, int V, bool STATS>
__global__ void __launch_bounds__(kDwConvThreads, kNhwcBlocks<K, D, V, STATS>) dwconv_nhwc_kernel(const DwConvTask a) {
  using G = Taps<K, D>;
  constexpr int F = kNhwcColumns<K, D>, KK = K * K, AHEAD = kNhwcAhead<D>, BYTES = V * sizeof(T);
  using Ring = Window<K, D, F, V>;
  constexpr int OUT_COLS = Ring::kOutColumns;
  constexpr bool kInRegisters = K < 7;
  using Vector = Vec<T, V>;
  CK_DYN_SHARED(shared, char);

  const int lanes = blockDim.x, width = lanes * V, groups = blockDim.y;
  const int tid = threadIdx.y * lanes + threadIdx.x, threads = lanes * groups;
  const int C = static_cast<int>(a.s.C), H = static_cast<int>(a.s.H), W = static_cast<int>(a.s.W);
  const int P = static_cast<int>(a.s.P), Q = static_cast<int>(a.s.Q);
  const unsigned worker = blockIdx.x / a.channel_blocks, workers = gridDim.x / a.channel_blocks;
  const int block_c = static_cast<int>(blockIdx.x % a.channel_blocks) * width, c = block_c + threadIdx.x * V;
  // This worker's share of all steps.
  const unsigned begin = static_cast<unsigned>(static_cast<uint64_t>(a.all_steps) * worker / workers);
  const unsigned end = static_cast<unsigned>(static_cast<uint64_t>(a.all_steps) * (worker + 1) / workers);
  const int tile_columns = G::columns(F * groups), row_slot = tile_columns * a.pitch, slot = G::kIn * row_slot;
  const int pixel = C * static_cast<int>(sizeof(T)), image_row = W * pixel;  // bytes

  // ---- copies: this thread has one chunk of channels of every few columns
  AsyncCopies copies;
  const int chunks = width * static_cast<int>(sizeof(T)) / a.chunk, first_column = tid / chunks;
  const int chunk = (tid - first_column * chunks) * a.chunk, column_step = threads / chunks;
  const bool chunk_inside = block_c * static_cast<int>(sizeof(T)) + chunk < pixel;
  const int64_t from_step = static_cast<int64_t>(column_step) * pixel;
  const int to_step = column_step * a.pitch;
  char* const to0 = shared + first_column * a.pitch + chunk;  // in slot 0
  const char* from = nullptr;                                 // of the next row
  unsigned copied = begin, copied_left = 0;
  int copied_row = 0, copied_column = 0;
  auto copy_step = [&](int to_slot) {
    if (copied_left > 0 || copied < end) {
      if (copied_left == 0) {
        const NhwcStrip<G> strip(a, copied, end);
        copied += strip.outputs, copied_left = strip.outputs + strip.warm_up;
        copied_row = strip.position * G::kIn + a.in_row;
        copied_column = strip.group * F * G::kIn + a.in_col + first_column;
        from = static_cast<const char*>(a.x) + (strip.n * H + copied_row) * image_row +
               static_cast<int64_t>(copied_column) * pixel + block_c * static_cast<int>(sizeof(T)) + chunk;
      }
#pragma unroll
      for (int s = 0; s < G::kIn; ++s, ++copied_row, from += image_row) {
        const unsigned inside = copied_row >= 0 && copied_row < H && chunk_inside ? W : 0;
        const char* p = from;
        char* q = to0 + to_slot + s * row_slot;
        for (int j = first_column, column = copied_column; j < tile_columns; j += column_step) {
          const bool there = static_cast<unsigned>(column) < inside;
          if (a.chunk == 16) copies.copy<16>(q, p, there);
          else copies.copy<BYTES>(q, p, there);
          column += column_step, p += from_step, q += to_step;
        }
      }
      --copied_left;
    }
    copies.commit();
  };
  for (int i = 0; i < AHEAD; ++i) copy_step(i * slot);

  // ---- the filter, times the batch norm's scale
  float* taps = reinterpret_cast<float*>(shared + (AHEAD + 1) * slot);  // [KK][width]
  constexpr int kBatch = 8;  // loads on their way at once: the first row waits for them
  for (int i0 = tid; i0 < KK * width; i0 += kBatch * threads) {
    float w[kBatch], scale[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int i = i0 + b * threads, lane = i / KK;
      const bool in = i < KK * width && block_c + lane < C;
      w[b] = in ? to_f(static_cast<const T*>(a.weight)[static_cast<int64_t>(block_c) * KK + i]) : 0.f;
      scale[b] = in && a.scale ? a.scale[block_c + lane] : 1.f;
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int i = i0 + b * threads, lane = i / KK, k = i - lane * KK;
      if (i < KK * width) taps[(a.flip ? KK - 1 - k : k) * width + lane] = w[b] * scale[b];
    }
  }
  float shift[V];
#pragma unroll
  for (int v = 0; v < V; ++v) shift[v] = c < C && a.shift ? a.shift[c + v] : 0.f;
  __syncthreads();
  taps += threadIdx.x * V;
  float in_registers[kInRegisters ? KK : 1][V];
  if constexpr (kInRegisters) {
#pragma unroll
    for (int k = 0; k < KK; ++k)
#pragma unroll
      for (int v = 0; v < V; ++v) in_registers[k][v] = taps[k * width + v];
  }
  auto weight = [&](int i, int j, float (&w)[V]) {
    const Vec<float, V> from_shared =
        kInRegisters ? Vec<float, V>() : *reinterpret_cast<const Vec<float, V>*>(taps + (i * K + j) * width);
#pragma unroll
    for (int v = 0; v < V; ++v) w[v] = kInRegisters ? in_registers[kInRegisters ? i * K + j : 0][v] : from_shared.v[v];
  };

  // ---- the strips
  const char* column0 = shared + threadIdx.y * (F * G::kIn) * a.pitch + threadIdx.x * BYTES;  // in slot 0
  const int out_row_bytes = Q * pixel;
  Ring ring;
  Moments sums[STATS ? V : 1];
  int used = 0, columns = 0, before = 0, out_row = 0;
  char* y = nullptr;  // the step's first output
  for (unsigned next = begin, left = 0, warm_up = 0; left > 0 || next < end; --left) {
    if (left == 0) {
      const NhwcStrip<G> strip(a, next, end);
      next += strip.outputs, left = strip.outputs + strip.warm_up, warm_up = strip.warm_up;
      const int out_col = (strip.group + static_cast<int>(threadIdx.y)) * F * G::kOut + a.out_col;
      out_row = (strip.position + static_cast<int>(warm_up)) * G::kOut + a.out_row;
      columns = c < C ? min(OUT_COLS, Q - out_col) : 0;
      before = D == Step::up2 ? -out_col : 0;  // columns of the padding
      y = static_cast<char*>(a.y) + (strip.n * P + out_row) * out_row_bytes + static_cast<int64_t>(out_col) * pixel +
          c * static_cast<int>(sizeof(T));
      ring.fill(shift);
    }
    copies.wait<AHEAD - 1>();
    __syncthreads();
    copy_step(used == 0 ? AHEAD * slot : used - slot);

    ring.advance(shift);
#pragma unroll
    for (int s = 0; s < G::kIn; ++s) {
      auto load = [&](int j, float (&x)[V]) {
        const Vector v = *reinterpret_cast<const Vector*>(column0 + used + s * row_slot + j * a.pitch);
#pragma unroll
        for (int i = 0; i < V; ++i) x[i] = to_f(v.v[i]);
      };
      ring.template add<kInRegisters>(load, s, weight);
    }
    used = used == AHEAD * slot ? 0 : used + slot;
    if (warm_up > 0) {
      --warm_up;
      continue;
    }

    float z[G::kOut][OUT_COLS][V];
#pragma unroll
    for (int o = 0; o < G::kOut; ++o)
#pragma unroll
      for (int j = 0; j < OUT_COLS; ++j)
#pragma unroll
        for (int v = 0; v < V; ++v) z[o][j][v] = ring.acc[0][o][j][v];
    if constexpr (STATS) {
#pragma unroll
      for (int j = 0; j < OUT_COLS; ++j)
#pragma unroll
        for (int v = 0; v < V; ++v)
          if (j < columns) sums[v].add(z[0][j][v]);
    }
    activate_all<G::kOut * OUT_COLS * V>(&z[0][0][0], a.act, a.slope);
#pragma unroll
    for (int o = 0; o < G::kOut; ++o) {
      if (D == Step::up2 && (out_row + o < 0 || out_row + o >= P)) continue;
      char* to = y + o * out_row_bytes;
      if (!STATS && D != Step::up2 && a.residual) {
        const char* residual = static_cast<const char*>(a.residual) + (to - static_cast<char*>(a.y));
#pragma unroll
        for (int j = 0; j < OUT_COLS; ++j) {
          if (j >= columns) continue;
          const Vector r = *reinterpret_cast<const Vector*>(residual + static_cast<int64_t>(j) * pixel);
#pragma unroll
          for (int v = 0; v < V; ++v) z[o][j][v] += to_f(r.v[v]);
        }
      }
#pragma unroll
      for (int j = 0; j < OUT_COLS; ++j, to += pixel) {
        Vector out;
#pragma unroll
        for (int v = 0; v < V; ++v) out.v[v] = from_f<T>(z[o][j][v]);
        if (j < columns && (D != Step::up2 || j >= before)) *reinterpret_cast<Vector*>(to) = out;
      }
    }
    y += G::kOut * out_row_bytes;
    if (D == Step::up2) out_row += G::kOut;
  }
  if constexpr (STATS) {
    __syncthreads();  // the slots are free
    write_partials(reinterpret_cast<Moments*>(shared), sums, a, worker, c);
  }
}

// blocks = 0: rows or steps are more than the kernel counts.
template <int K, Step D, int V>
inline Launch plan_nhwc(DwConvTask& a, int columns, int element, int multiprocessors) {
  using G = Taps<K, D>;
  constexpr int F = kNhwcColumns<K, D>, slots = kNhwcAhead<D> + 1;
  const int vectors = static_cast<int>(a.s.C / V), bytes = V * element, all_groups = (columns + F - 1) / F;
  a.chunk = a.s.C * element % 16 == 0 ? 16 : bytes;
  // Channels and columns of a block: the fewest idle threads, columns read twice and memory sectors cut in two.
  size_t shared = 0;
  dim3 block;
  double least = 0;
  const int most = (vectors + 63) / 64 + 7;
  for (int blocks = (vectors + 63) / 64; blocks <= min(most, vectors); ++blocks) {
    const int multiple = max(1, a.chunk / bytes);
    const int lanes = ((vectors + blocks - 1) / blocks + multiple - 1) / multiple * multiple;
    const int channel_blocks = (vectors + lanes - 1) / lanes;
    int pitch = lanes * bytes;
    if (pitch == 64 || pitch == 32) pitch += 16;  // else neighbouring groups meet in the same banks
    for (int groups = min(all_groups, max(1, kDwConvThreads / lanes)); groups > 0; --groups) {
      const int tiles = (all_groups + groups - 1) / groups;
      groups = (all_groups + tiles - 1) / tiles;
      const int read = G::columns(F * groups), threads = lanes * groups, line = channel_blocks > 1 ? lanes * bytes : 32;
      size_t needed = size_t(slots) * G::kIn * read * pitch + sizeof(float) * K * K * lanes * V;
      if (a.partials) needed = std::max(needed, sizeof(Moments) * threads * V);
      if (needed > kNhwcShared) continue;
      const double cost = double(channel_blocks) * lanes / vectors * tiles * groups * F / columns *
                          ((threads + 31) / 32 * 32) / threads * ((line + 31) / 32 * 32) / line *
                          (0.75 + 0.25 * read / (F * groups * G::kIn));
      if (shared == 0 || cost < least) {
        least = cost, shared = needed, block = dim3(lanes, groups);
        a.channel_blocks = channel_blocks, a.tiles = tiles, a.pitch = pitch;
      }
      break;
    }
  }
  if (shared == 0 || a.s.W * a.s.C * element > INT32_MAX || a.s.Q * a.s.C * element * 2 > INT32_MAX)
    return {0, dim3(), 0};
  // Every worker gets the same number of steps: of several images, or of part of one.
  const int64_t all = a.s.N * a.tiles * a.steps;
  if (all > INT32_MAX) return {0, dim3(), 0};
  a.all_steps = static_cast<unsigned>(all);
  const int per_sm = kDwConvThreads * (a.partials ? kNhwcBlocks<K, D, V, true> : kNhwcBlocks<K, D, V, false>);
  const int64_t at_once =
      std::max(1, multiprocessors * std::min(16, per_sm / int(block.x * block.y)) / a.channel_blocks);
  a.partial_rows = std::min(all, at_once);
  return {a.partial_rows * a.channel_blocks, block, shared};
}

}  // namespace ck::cuda

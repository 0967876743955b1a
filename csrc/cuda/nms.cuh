// Kernels of the non-maximum suppression.
//
// "Rank" is the order by falling score, "position" the order by (segment, rank), "tile" 64 positions, "word" one bit for
// each box of a tile.  A segment is a run of positions, so pairs of different segments cost nothing but a comparison.
//
//   keys, segment_ids   what the caller sorts by
//   gather              boxes by position, where each one's segment ends, who is out from the start
//   for each band of tiles (as many rows as the mask memory holds):
//     mask              which later boxes each box of the band would remove, 64 to a word
//     scan              who is kept, in order; marks what the kept ones remove, in later bands too
//   compact             kept indices by rank
//
// Bands bound the memory (the whole mask of 100,000 boxes is 1.25 GB), and boxes that an earlier band removed are not
// tested again.  How many bands there are depends on n only, so the host never waits.  Integer atomics (or) only:
// deterministic.  __fmul_rn and its kind in csrc/math/box_overlap.h keep decisions equal to the CPU's.
#pragma once
#include "device/ck_cuda.cuh"
#include "nms.h"

namespace ck::cuda {

constexpr int kNmsThreads = 256;
constexpr int kNmsTile = 64;
constexpr int kNmsMaskTiles = kNmsThreads / kNmsTile;  // column tiles of one mask block

template <class T>
CK_HD float4 load_box(const T* boxes, int64_t i) {
  const auto b = reinterpret_cast<const Vec<T, 4>*>(boxes)[i];
  return make_float4(to_f(b.v[0]), to_f(b.v[1]), to_f(b.v[2]), to_f(b.v[3]));
}

// 0 * x is 0 for finite x, else NaN
CK_HD bool is_candidate(float4 b, float score) {
  return score == score && 0.f * b.x + 0.f * b.y + 0.f * b.z + 0.f * b.w == 0.f;
}

// A thread owns one box: keys[i] = its score, or -infinity if it is out.  Reads 5e bytes, writes 4.
template <class T>
__global__ void __launch_bounds__(kNmsThreads)
    nms_keys_kernel(const T* __restrict__ boxes, const T* __restrict__ scores, float* __restrict__ keys,
                    int64_t total) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kNmsThreads + threadIdx.x;
  if (i >= total) return;
  const float score = to_f(scores[i]);
  keys[i] = is_candidate(load_box(boxes, i), score) ? score : -INFINITY;
}

// A thread owns one rank.
template <class = void>
__global__ void __launch_bounds__(kNmsThreads)
    nms_segment_ids_kernel(const int64_t* __restrict__ segments, const int64_t* __restrict__ by_score,
                           int64_t* __restrict__ ids, int64_t n, int64_t total) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kNmsThreads + threadIdx.x;
  if (i < total) ids[i] = segments[i / n * n + by_score[i]];
}

// A thread owns one position, a warp half a word of `removed` and of `kept`.  Segment ends by binary search: 17 steps
// for 100,000 boxes, all positions at once, and the first steps of all are the same few cache lines.
template <class T>
__global__ void __launch_bounds__(kNmsThreads)
    nms_gather_kernel(const T* __restrict__ boxes, const T* __restrict__ scores, NmsWork w, int64_t images, int64_t n,
                      int64_t words) {
  const int64_t g = static_cast<int64_t>(blockIdx.x) * kNmsThreads + threadIdx.x;
  const int64_t image = g / (words * kNmsTile), p = g % (words * kNmsTile), at = image * n + p;
  bool candidate = false;
  if (image < images && p < n) {
    const int64_t rank = w.by_segment ? w.by_segment[at] : p;
    const int64_t i = image * n + w.by_score[image * n + rank];
    const float4 b = load_box(boxes, i);
    candidate = is_candidate(b, to_f(scores[i]));
    w.boxes[at] = b;
    if (w.angles) w.angles[at] = box_angle(b.x, b.y, b.z, b.w);
    int64_t end = n;
    if (w.sorted_ids) {
      const int64_t* ids = w.sorted_ids + image * n;
      const int64_t id = ids[p];
      int64_t low = p + 1;  // the first position after p with a larger id is in [low, end]
      while (low < end) {
        const int64_t middle = (low + end) / 2;
        if (ids[middle] > id) end = middle;
        else low = middle + 1;
      }
    }
    w.ends[at] = static_cast<int32_t>(end);
  }
  const unsigned in = __ballot_sync(0xffffffffu, candidate);
  if (image < images && threadIdx.x % 32 == 0) {
    reinterpret_cast<uint32_t*>(w.removed)[g / 32] = ~in;
    reinterpret_cast<uint32_t*>(w.kept)[g / 32] = 0;
  }
}

// A block owns the 64 boxes of one row tile against the 256 of kNmsMaskTiles column tiles; a thread one row against one
// column tile: 64 pair tests from shared memory (all threads of a warp read the same box), one 8-byte word written.
// The kind is a run-time branch that all threads take alike; POWER (beta != 1) brings double arithmetic in.
template <bool POWER>
__global__ void __launch_bounds__(kNmsThreads)
    nms_mask_kernel(NmsWork w, int64_t n, int64_t words, int64_t first, int64_t tiles, int64_t groups, float threshold,
                    Overlap kind, double beta) {
  const int64_t image = blockIdx.x / (tiles * groups), row_tile = first + blockIdx.x / groups % tiles;
  const int64_t column_tile = first + blockIdx.x % groups * kNmsMaskTiles;
  const int64_t base = image * n, last_row = min((row_tile + 1) * kNmsTile, n) - 1;
  const int64_t end = w.ends[base + last_row];  // no box of this row tile reaches beyond
  if (column_tile + kNmsMaskTiles <= row_tile || column_tile * kNmsTile >= end) return;

  CK_SHARED(columns, float4[kNmsThreads]);
  CK_SHARED(areas, float[kNmsThreads]);
  CK_SHARED(angles, float[kNmsThreads]);
  const int t = threadIdx.x;
  const int64_t mine = column_tile * kNmsTile + t;
  if (mine < n) {
    const float4 b = w.boxes[base + mine];
    columns[t] = b;
    areas[t] = box_area(b.x, b.y, b.z, b.w);
    angles[t] = w.angles ? w.angles[base + mine] : 0.f;
  }
  __syncthreads();

  const int64_t tile = column_tile + t / kNmsTile, row = row_tile * kNmsTile + t % kNmsTile;
  if (tile < row_tile || tile * kNmsTile >= end || row > last_row) return;
  if (w.removed[image * words + row_tile] >> (t % kNmsTile) & 1) return;  // its row is never read
  const float4 b = w.boxes[base + row];
  const Box<float> box = {b.x, b.y, b.z, b.w, box_area(b.x, b.y, b.z, b.w), w.angles ? w.angles[base + row] : 0.f};
  const int64_t reach = w.ends[base + row] - tile * kNmsTile;  // columns before it are in the row's segment
  const int stop = static_cast<int>(min(reach, static_cast<int64_t>(kNmsTile)));
  uint64_t word = 0;
  for (int k = tile == row_tile ? t % kNmsTile + 1 : 0; k < stop; ++k) {
    const int c = t / kNmsTile * kNmsTile + k;
    const float4 o = columns[c];
    const Box<float> other = {o.x, o.y, o.z, o.w, areas[c], angles[c]};
    if (overlap<POWER>(kind, box, other, beta) > threshold) word |= uint64_t(1) << k;
  }
  w.mask[((image * tiles + row_tile - first) * kNmsTile + t % kNmsTile) * words + tile] = word;
}

CK_HD void atomic_or(uint64_t* p, uint64_t bits) {
#if defined(__CUDA_ARCH__) || defined(CK_HOST_CUDA)
  atomicOr(reinterpret_cast<unsigned long long*>(p), static_cast<unsigned long long>(bits));
#endif
}

// A block owns the segments that start in one tile (the first tile of a band: also the one that is open there) and
// follows the last of them to its end, or the band's: so segments are scanned side by side, and a segment in order.
// Per tile: one thread decides its 64 boxes in registers, then each of the eight warps takes every eighth kept row and
// marks, 32 words at a time and eight loads in flight, what those rows remove from later tiles.
// Tiles at a segment's ends are shared with other blocks: they touch bits of their own boxes only, through atomics.
template <class = void>
__global__ void __launch_bounds__(kNmsThreads)
    nms_scan_kernel(NmsWork w, int64_t n, int64_t words, int64_t first, int64_t tiles) {
  const int64_t image = blockIdx.x / tiles, tile0 = first + blockIdx.x % tiles;
  const int32_t* ends = w.ends + image * n;
  const int64_t tile0_end = min((tile0 + 1) * kNmsTile, n);
  int64_t begin = tile0 * kNmsTile;
  if (tile0 != first) begin = max(begin, static_cast<int64_t>(ends[begin - 1]));
  if (begin >= tile0_end) return;  // all of this tile belongs to a segment from before
  const int64_t segment_end = ends[tile0_end - 1], end = min(segment_end, (first + tiles) * kNmsTile);
  const int64_t last_word = (segment_end - 1) / kNmsTile;
  uint64_t* const removed = w.removed + image * words;
  const uint64_t* const mask = w.mask + image * tiles * kNmsTile * words;

  CK_SHARED(diagonal, uint64_t[kNmsTile]);
  CK_SHARED(decided, uint64_t[1]);
  const int t = threadIdx.x, lane = t % 32, warp = t / 32;
  for (int64_t tile = tile0; tile * kNmsTile < end; ++tile) {
    const int64_t row0 = (tile - first) * kNmsTile;
    const int low = static_cast<int>(max(begin - tile * kNmsTile, static_cast<int64_t>(0)));
    const int high = static_cast<int>(min(end - tile * kNmsTile, static_cast<int64_t>(kNmsTile)));
    if (t < kNmsTile) diagonal[t] = t >= low && t < high ? mask[(row0 + t) * words + tile] : 0;
    __syncthreads();
    if (t == 0) {
      const uint64_t own = (high == kNmsTile ? ~uint64_t(0) : (uint64_t(1) << high) - 1) & ~((uint64_t(1) << low) - 1);
      uint64_t in = own & ~atomicOr(reinterpret_cast<unsigned long long*>(removed + tile), 0ull);
#pragma unroll
      for (int i = 0; i < kNmsTile; ++i) {
        const uint64_t removes = diagonal[i];  // later boxes only
        if (in >> i & 1) in &= ~removes;
      }
      decided[0] = in;
    }
    __syncthreads();
    const uint64_t kept = decided[0];
    if (t < kNmsTile && (kept >> t & 1)) {
      const int64_t p = tile * kNmsTile + t, rank = w.by_segment ? w.by_segment[image * n + p] : p;
      atomic_or(w.kept + image * words + rank / 64, uint64_t(1) << (rank % 64));
    }
    constexpr int kWarps = kNmsThreads / 32;
    for (int64_t word = tile + 1 + lane; word <= last_word; word += 32) {
      uint64_t bits = 0;
#pragma unroll
      for (int i = 0; i < kNmsTile / kWarps; ++i) {
        const int row = i * kWarps + warp;
        if (kept >> row & 1) bits |= mask[(row0 + row) * words + word];
      }
      if (bits) atomic_or(removed + word, bits);
    }
    __syncthreads();
  }
}

// A block owns one image: 256 words of `kept` (16384 ranks) a round, their places by a prefix sum over the block.
template <class = void>
__global__ void __launch_bounds__(kNmsThreads)
    nms_compact_kernel(const uint64_t* __restrict__ kept, const int64_t* __restrict__ by_score,
                       int64_t* __restrict__ indices, int64_t* __restrict__ count, int64_t n, int64_t words,
                       int64_t max_out) {
  constexpr int kWarps = kNmsThreads / 32;
  CK_SHARED(sums, int[kWarps]);
  const int64_t image = blockIdx.x;
  const int t = threadIdx.x, lane = t % 32, warp = t / 32;
  int64_t* const out = indices + image * max_out;
  int64_t total = 0;
  for (int64_t start = 0; start < words && total < max_out; start += kNmsThreads) {
    uint64_t bits = start + t < words ? kept[image * words + start + t] : 0;
    const int own = __popcll(bits);
    int before = own;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, before, d);
      if (lane >= d) before += other;
    }
    if (lane == 31) sums[warp] = before;
    before -= own;
    __syncthreads();
    int all = 0;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) {
      if (i < warp) before += sums[i];
      all += sums[i];
    }
    for (int64_t place = total + before; bits && place < max_out; ++place, bits &= bits - 1)
      out[place] = by_score[image * n + (start + t) * 64 + __ffsll(static_cast<long long>(bits)) - 1];
    total += all;
    __syncthreads();
  }
  total = min(total, max_out);
  for (int64_t i = total + t; i < max_out; i += kNmsThreads) out[i] = -1;
  if (t == 0) count[image] = total;
}

}  // namespace ck::cuda

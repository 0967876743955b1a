#include "nms.cuh"

#include <algorithm>

namespace ck::cuda {
namespace {
constexpr int64_t kLargestGrid = 0x7fffffff;

dim3 blocks_for(int64_t threads) { return dim3(static_cast<unsigned>((threads + kNmsThreads - 1) / kNmsThreads)); }
}  // namespace

int64_t nms_band(int64_t images, int64_t n, int64_t bytes) {
  const int64_t words = std::max<int64_t>(nms_words(n), 1),
                tile_bytes = std::max<int64_t>(images, 1) * kNmsTile * words * 8;
  return std::clamp<int64_t>(bytes / tile_bytes, 1, words);
}

cudaError_t nms_keys(const NmsProblem& p, float* keys, cudaStream_t s) {
  const int64_t total = p.images * p.n;
  if (total == 0) return cudaSuccess;
  return with_cuda_dtype(p.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(nms_keys_kernel<T>, blocks_for(total), dim3(kNmsThreads), 0, s, static_cast<const T*>(p.boxes),
                  static_cast<const T*>(p.scores), keys, total);
  });
}

cudaError_t nms_segment_ids(const NmsProblem& p, const int64_t* by_score, int64_t* ids, cudaStream_t s) {
  const int64_t total = p.images * p.n;
  if (total == 0) return cudaSuccess;
  return launch(nms_segment_ids_kernel<>, blocks_for(total), dim3(kNmsThreads), 0, s, p.segments, by_score, ids, p.n,
                total);
}

cudaError_t nms_select(const NmsProblem& p, const NmsWork& w, int64_t* indices, int64_t* count, cudaStream_t s) {
  if (p.images == 0) return cudaSuccess;
  const int64_t words = nms_words(p.n);
  if (p.n > 0) {
    const cudaError_t e = with_cuda_dtype(p.dtype, [&](auto t) {
      using T = decltype(t);
      return launch(nms_gather_kernel<T>, blocks_for(p.images * words * kNmsTile), dim3(kNmsThreads), 0, s,
                    static_cast<const T*>(p.boxes), static_cast<const T*>(p.scores), w, p.images, p.n, words);
    });
    if (e != cudaSuccess) return e;
  }
  for (int64_t first = 0; first < words; first += w.band) {
    const int64_t tiles = std::min(w.band, words - first);
    const int64_t groups = (words - first + kNmsMaskTiles - 1) / kNmsMaskTiles;
    if (p.images * tiles * groups > kLargestGrid) return cudaErrorInvalidValue;
    const auto mask = p.beta == 1.0 ? nms_mask_kernel<false> : nms_mask_kernel<true>;
    cudaError_t e = launch(mask, dim3(static_cast<unsigned>(p.images * tiles * groups)), dim3(kNmsThreads), 0, s, w,
                           p.n, words, first, tiles, groups, p.threshold, p.kind, p.beta);
    if (e != cudaSuccess) return e;
    e = launch(nms_scan_kernel<>, dim3(static_cast<unsigned>(p.images * tiles)), dim3(kNmsThreads), 0, s, w, p.n, words,
               first, tiles);
    if (e != cudaSuccess) return e;
  }
  return launch(nms_compact_kernel<>, dim3(static_cast<unsigned>(p.images)), dim3(kNmsThreads), 0, s, w.kept,
                w.by_score, indices, count, p.n, words, p.max_out);
}

}  // namespace ck::cuda

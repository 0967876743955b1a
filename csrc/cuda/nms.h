// Greedy non-maximum suppression of `images` sets of n boxes, without a word to the host.  float32, float16, bfloat16.
//
// The caller sorts (stably) between three calls:
//   nms_keys        -> keys;         by_score = argsort of each row of keys, falling
//   nms_segment_ids -> ids;          ids, by_segment = sort of each row of ids, rising          (only with segments)
//   nms_select      -> indices, count
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include <cstdint>

#include "../math/box_overlap.h"
#include "../math/dtype.h"

namespace ck::cuda {

struct NmsProblem {
  Dtype dtype;              // of boxes and scores
  const void* boxes;        // [images, n, 4], 16-byte aligned
  const void* scores;       // [images, n]
  const int64_t* segments;  // [images, n] or null
  int64_t images, n;        // n < 2^31
  float threshold;
  Overlap kind;
  double beta;
  int64_t max_out;
};

// Device memory the caller provides.  words = nms_words(n).
struct NmsWork {
  const int64_t* by_score;    // [images, n]: rank -> index
  const int64_t* sorted_ids;  // [images, n]: segment by position; null without segments
  const int64_t* by_segment;  // [images, n]: position -> rank; null without segments
  float4* boxes;              // [images, n]: by position
  float* angles;              // [images, n]: by position, for ciou; else null
  int32_t* ends;              // [images, n]: position one beyond the end of a position's segment
  uint64_t* removed;          // [images, words]: bit per position
  uint64_t* kept;             // [images, words]: bit per rank
  uint64_t* mask;             // [images, 64 * band, words]
  int64_t band;               // tiles of 64 boxes whose mask rows are held at a time
};

inline int64_t nms_words(int64_t n) { return (n + 63) / 64; }
// Tiles per band such that the mask takes at most `bytes` (one tile at least).
int64_t nms_band(int64_t images, int64_t n, int64_t bytes);

cudaError_t nms_keys(const NmsProblem& p, float* keys, cudaStream_t s);
cudaError_t nms_segment_ids(const NmsProblem& p, const int64_t* by_score, int64_t* ids, cudaStream_t s);
cudaError_t nms_select(const NmsProblem& p, const NmsWork& w, int64_t* indices, int64_t* count, cudaStream_t s);

}  // namespace ck::cuda
#endif

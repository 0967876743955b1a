// Kernels of the IoU losses: a thread owns a pair of boxes (reduced losses: pairs a grid apart), one vector load each.
// Forward 8e bytes a pair and 4 written, backward 8e and 4e (8e with the target's gradient) written.
//
// The kind is a run-time branch that all threads take alike.  Sums have a fixed order: thread, warp, block, and the
// blocks' sums by one more launch, which up to kLossPairs pairs is not needed.
#pragma once
#include "box_iou_loss.h"
#include "device/ck_cuda.cuh"

namespace ck::cuda {

constexpr int kLossThreads = 256;
constexpr int64_t kLossPairs = 2048;  // pairs of a block of a reduced loss, up to kLossBlocks blocks
constexpr int64_t kLossBlocks = 1024;

template <class T>
CK_HD Box<float> load_loss_box(Overlap kind, const T* boxes, int64_t i) {
  const auto b = reinterpret_cast<const Vec<T, 4>*>(boxes)[i];
  return loss_box(kind, to_f(b.v[0]), to_f(b.v[1]), to_f(b.v[2]), to_f(b.v[3]));
}

// Thread 0 of the block returns the sum of all threads' v.
__device__ __forceinline__ float block_sum(float v) {
  CK_SHARED(parts, float[kLossThreads / 32]);
#pragma unroll
  for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(0xffffffffu, v, o);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  float total = 0.f;
  if (threadIdx.x == 0) {
#pragma unroll
    for (int w = 0; w < kLossThreads / 32; ++w) total += parts[w];
  }
  return total;
}

// REDUCE: out[block] = scale * the sum of the block's losses; otherwise out[i] = loss i.
template <class T, bool REDUCE>
__global__ void __launch_bounds__(kLossThreads)
    box_iou_loss_kernel(const T* __restrict__ pred, const T* __restrict__ target, float* __restrict__ out, int64_t n,
                        Overlap kind, float scale) {
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kLossThreads + threadIdx.x;
  const auto loss = [&](int64_t i) {
    return box_iou_loss(kind, load_loss_box(kind, pred, i), load_loss_box(kind, target, i));
  };
  if constexpr (REDUCE) {
    float sum = 0.f;
    for (int64_t i = first; i < n; i += static_cast<int64_t>(gridDim.x) * kLossThreads) sum += loss(i);
    sum = block_sum(sum);
    if (threadIdx.x == 0) out[blockIdx.x] = sum * scale;
  } else {
    if (first < n) out[first] = loss(first);
  }
}

// One block: out[0] = the sum of the parts.
static __global__ void __launch_bounds__(kLossThreads)
    box_iou_loss_total_kernel(const float* __restrict__ parts, float* __restrict__ out, int64_t count) {
  float sum = 0.f;
  for (int64_t i = threadIdx.x; i < count; i += kLossThreads) sum += parts[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) out[0] = sum;
}

template <class T>
__global__ void __launch_bounds__(kLossThreads)
    box_iou_loss_backward_kernel(const T* __restrict__ pred, const T* __restrict__ target,
                                 const float* __restrict__ grad, int64_t grad_step, T* __restrict__ dpred,
                                 T* __restrict__ dtarget, int64_t n, Overlap kind, float scale) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kLossThreads + threadIdx.x;
  if (i >= n) return;
  float da[4], db[4];
  box_iou_loss_gradient(kind, load_loss_box(kind, pred, i), load_loss_box(kind, target, i), grad[i * grad_step] * scale,
                        da, db);
  Vec<T, 4> v;
#pragma unroll
  for (int k = 0; k < 4; ++k) v.v[k] = from_f<T>(da[k]);
  reinterpret_cast<Vec<T, 4>*>(dpred)[i] = v;
  if (!dtarget) return;
#pragma unroll
  for (int k = 0; k < 4; ++k) v.v[k] = from_f<T>(db[k]);
  reinterpret_cast<Vec<T, 4>*>(dtarget)[i] = v;
}

// ---- launches ----------------------------------------------------------------------------------------------------------

inline unsigned loss_blocks(int64_t n) { return static_cast<unsigned>((n + kLossThreads - 1) / kLossThreads); }

// Blocks of a reduced loss: one at least, which writes the sum of nothing.
inline int64_t loss_parts(int64_t n) {
  const int64_t blocks = (n + kLossPairs - 1) / kLossPairs;
  return blocks < 1 ? 1 : blocks > kLossBlocks ? kLossBlocks : blocks;
}

inline float loss_scale(const BoxPairs& b) {
  return b.reduction == Reduction::mean && b.n > 0 ? static_cast<float>(1.0 / static_cast<double>(b.n)) : 1.f;
}

template <class T, bool REDUCE>
cudaError_t launch_box_iou_loss(const BoxPairs& b, float* out, unsigned blocks, cudaStream_t s) {
  return launch(box_iou_loss_kernel<T, REDUCE>, dim3(blocks), dim3(kLossThreads), 0, s, static_cast<const T*>(b.pred),
                static_cast<const T*>(b.target), out, b.n, b.kind, loss_scale(b));
}

}  // namespace ck::cuda

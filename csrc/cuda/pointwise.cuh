// 1x1 convolution with gate, folded batch norm, activation and residual: a matrix product whose epilogue is all of that.
//
// channels_last: y[pixels, K] = x[pixels, C] weight^T; NCHW: y[K, pixels] = weight x[C, pixels], where the pixels of all
// images are one row.  Either way neighbouring columns of the product are neighbours in memory.  A block owns a tile of
// outputs and goes through C in chunks of 64 bytes, several of them on the way (pointwise_operand.cuh); its warps own 32
// rows and half the columns each (pointwise_product.cuh).  Sums go through shared memory once more, so that y and residual
// move in 16-byte vectors of whole rows.
//
// Bytes per output, of e each: 1 + C / K, and 1 for the residual, if x comes from DRAM once.  It is read K / 128 (or 64)
// times, by neighbouring blocks at about the same time, so mostly from the L2 cache, as are the weights, pixels / 128 times.
// Two tiles: 128 x 128 reads least from L2 and feeds the tensor cores with the fewest reads of shared memory (a warp's 16
// products of 16 x 8 x 16 take 6, those of the other tile 8); 64 x 64 wastes less where K is small, gives more blocks where
// there are few pixels, and has registers to spare for the gate: layers with one have few outputs.
// Vectors need C, and in NCHW the pixels of a plane, in multiples of 16 bytes: halves of 14 x 14 or 7 x 7 planes in NCHW go
// element by element.
//
// Bound on an H200 (4.3 TB/s; batch 128, fp16): bytes for all of MobileNetV2 and EfficientNet-B0 but the widest layers:
// 24 to 144 channels at 56 x 56 31 us, 144 to 24 with residual 36 us.  320 to 1280 at 7 x 7 is 5.1 GFLOP, and mma.sync gives
// some 60 % of the 790 TFLOP/s that wgmma reaches: 11 us against 5 us of bytes.  A gate of halves doubles the products: 1152
// to 192 at 7 x 7 then takes 12 us against 4 us, narrower gated layers are bound by bytes.  fp32 by FFMA (59 TFLOP/s) is
// bound by arithmetic from about C = K = 60 on.
//
// Measured there, channels_last: 16 to 96 channels at 112 x 112 235 us (89 by a copy of the bytes), 24 to 144 120 us, 144 to 24
// 94 us, 320 to 1280 31 us, the gated 1152 to 192 66 us.  A block's life is one tile, whose loads, products and stores follow
// each other: five blocks per SM do not hide that.  Projections to few channels and gated layers are slower than cuDNN's
// convolution and another pass (cnnkernels/nn/_pointwise.py).
#pragma once
#include "../math/pointwise_shape.h"
#include "device/activate_all.cuh"
#include "pointwise.h"
#include "pointwise_product.cuh"

namespace ck::cuda {

struct PointwiseTask {
  const void *x, *weight, *gate, *residual;
  void* y;
  const float *scale, *shift;
  int64_t pixels, HW;
  int C, K;
  Act act;
  float slope;
  bool x_vectors, weight_vectors, y_vectors;  // 16-byte accesses are possible
  int k_tiles;                                // blocks next to each other, with the same pixels
};

// The sizes of a kernel and its parts.
template <class T, int SIZE, bool LAST, bool GATED>
struct PointwisePlan {
  static constexpr int kThreads = SIZE * 2, kWarpColumns = SIZE / 2;
  using Weights = PointwiseRows<T, SIZE, kThreads, false>;
  using X =
      std::conditional_t<LAST, PointwiseRows<T, SIZE, kThreads, GATED>, PointwisePlanes<T, SIZE, kThreads, GATED>>;
  static constexpr int kXPitch = LAST ? kPointwiseRowPitch<T> : kPointwisePlanePitch<T, SIZE>;
  using Product = PointwiseProduct<T, kWarpColumns, !LAST, kXPitch>;
  // A stage in shared memory: weights, x, and what rounding left over of x * gate.
  static constexpr bool kRest = GATED && sizeof(T) == 2;
  static constexpr int kStage = Weights::kElements + X::kElements * (kRest ? 2 : 1), kStages = 3;
  // A warp's sums on their way out: 16 rows, 8 columns longer, so that the eight rows of a store are in different banks.
  static constexpr int kOutPitch = kWarpColumns + 8, kOut = 16 * kOutPitch;
  static constexpr size_t kStageBytes = kStages * kStage * sizeof(T), kOutBytes = kThreads / 32 * kOut * sizeof(float);
  static constexpr size_t kShared = kStageBytes > kOutBytes ? kStageBytes : kOutBytes;
};

// A warp's way out: a lane has one vector of columns in every few rows.
template <class T, int COLUMNS, bool LAST>
class PointwiseOutput {
  static constexpr int V = kPointwiseVector<T>, kPerRow = COLUMNS / V, kStep = 32 / kPerRow;
  using Vector = Vec<T, V>;

 public:
  // row, column: the warp's first ones, in y as the matrix of the product.
  __device__ PointwiseOutput(const PointwiseTask& a, int64_t row, int64_t column)
      : a_(a),
        row_(row + static_cast<int>(threadIdx.x) % 32 / kPerRow),
        column_(column + lane_column()),
        walk_(LAST ? 0 : column_, a.HW, a.K) {
    const int64_t left = (LAST ? a.K : a.pixels) - column_;
    valid_ = left < V ? static_cast<int>(left) : V;
    if constexpr (LAST) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        scale_[v] = v < valid_ && a.scale ? a.scale[column_ + v] : 1.f;
        shift_[v] = v < valid_ && a.shift ? a.shift[column_ + v] : 0.f;
      }
    }
  }

  // sums: 16 rows of the product, the first of them `skip` below the warp's.
  __device__ void write(const float* sums, int pitch, int skip) const {
    const int lane_row = static_cast<int>(threadIdx.x) % 32 / kPerRow;
#pragma unroll 2  // in full, nine activations times sixteen rows fill the instruction cache
    for (int i = 0; i < 16; i += kStep) {
      const int64_t row = row_ + skip + i;
      if (valid_ <= 0 || row >= (LAST ? a_.pixels : a_.K)) continue;
      float z[V];
#pragma unroll
      for (int v = 0; v < V; v += 4) {
        const auto four = *reinterpret_cast<const Vec<float, 4>*>(sums + (lane_row + i) * pitch + lane_column() + v);
#pragma unroll
        for (int e = 0; e < 4; ++e) z[v + e] = four.v[e];
      }
      if constexpr (LAST) {
#pragma unroll
        for (int v = 0; v < V; ++v) z[v] = z[v] * scale_[v] + shift_[v];
      } else {
        const float scale = a_.scale ? a_.scale[row] : 1.f, shift = a_.shift ? a_.shift[row] : 0.f;
#pragma unroll
        for (int v = 0; v < V; ++v) z[v] = z[v] * scale + shift;
      }
      activate_all<V>(z, a_.act, a_.slope);
      store(z, row);
    }
  }

 private:
  static __device__ int lane_column() { return static_cast<int>(threadIdx.x) % kPerRow * V; }

  __device__ void store(const float (&z)[V], int64_t row) const {
    const int64_t at = LAST ? row * a_.K + column_ : walk_.offset + row * a_.HW;
    const T* residual = static_cast<const T*>(a_.residual);
    T* y = static_cast<T*>(a_.y);
    if (a_.y_vectors) {
      Vector out;
      if (residual) {
        const Vector r = *reinterpret_cast<const Vector*>(residual + at);
#pragma unroll
        for (int v = 0; v < V; ++v) out.v[v] = from_f<T>(z[v] + to_f(r.v[v]));
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) out.v[v] = from_f<T>(z[v]);
      }
      *reinterpret_cast<Vector*>(y + at) = out;
      return;
    }
    PixelWalk walk = walk_;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      if (v < valid_) {
        const int64_t i = LAST ? at + v : walk.offset + row * a_.HW;
        y[i] = from_f<T>(z[v] + (residual ? to_f(residual[i]) : 0.f));
      }
      if constexpr (!LAST) walk.next();
    }
  }

  const PointwiseTask& a_;
  int64_t row_, column_;
  PixelWalk walk_;  // NCHW: at the lane's first pixel
  int valid_;
  float scale_[LAST ? V : 1], shift_[LAST ? V : 1];
};

template <class T, int SIZE, bool LAST, bool GATED>
__global__ void __launch_bounds__(SIZE * 2, SIZE == 128 ? 2 : 4) pointwise_kernel(const PointwiseTask a) {
  using Plan = PointwisePlan<T, SIZE, LAST, GATED>;
  constexpr int kStages = Plan::kStages;
  CK_DYN_SHARED(shared, T);
  const int64_t pixel = static_cast<int64_t>(blockIdx.x / a.k_tiles) * SIZE;
  const int k = static_cast<int>(blockIdx.x % a.k_tiles) * SIZE;

  typename Plan::Weights weights(static_cast<const T*>(a.weight), nullptr, k, a.K, a.C, 1, a.weight_vectors);
  typename Plan::X x(static_cast<const T*>(a.x), static_cast<const T*>(a.gate), pixel, a.pixels, a.C, a.HW,
                     a.x_vectors);
  AsyncCopies copies;
  const auto weights_of = [&](int chunk) { return shared + chunk % kStages * Plan::kStage; };
  const auto x_of = [&](int chunk) { return weights_of(chunk) + Plan::Weights::kElements; };
  const auto rest_of = [&](int chunk) { return x_of(chunk) + (Plan::kRest ? Plan::X::kElements : 0); };
  const int chunks = (a.C + kPointwiseDepth<T> - 1) / kPointwiseDepth<T>;
  const auto fetch = [&](int chunk) {
    if (chunk < chunks) weights.fetch(copies, weights_of(chunk), chunk), x.fetch(copies, x_of(chunk), chunk);
    copies.commit();
  };
  const auto stash = [&](int chunk) {
    if (chunk < chunks) weights.stash(weights_of(chunk), nullptr, chunk), x.stash(x_of(chunk), rest_of(chunk), chunk);
  };
#pragma unroll
  for (int chunk = 0; chunk < kStages - 1; ++chunk) fetch(chunk), stash(chunk);

  const int warp = threadIdx.x / 32, row = warp / 2 * 32, column = warp % 2 * Plan::kWarpColumns;
  typename Plan::Product product;
  product.clear();
  for (int chunk = 0; chunk < chunks; ++chunk) {
    copies.wait<kStages - 2>();
    __syncthreads();  // the chunk is there, and nobody reads the stage that is filled next
    fetch(chunk + kStages - 1);
    const int left = a.C - chunk * kPointwiseDepth<T>;
    const T* w = weights_of(chunk);
    const auto add = [&](const T* pixels) {
      if constexpr (LAST) {
        product.add(pixels + row * Plan::kXPitch, w + column * kPointwiseRowPitch<T>, left);
      } else {
        product.add(w + row * kPointwiseRowPitch<T>, pixels + column, left);
      }
    };
    add(x_of(chunk));
    if constexpr (Plan::kRest) add(rest_of(chunk));
    stash(chunk + kStages - 1);
  }
  __syncthreads();  // the stages are done with

  float* sums = reinterpret_cast<float*>(shared) + warp * Plan::kOut;
  const PointwiseOutput<T, Plan::kWarpColumns, LAST> output(a, (LAST ? pixel : k) + row, (LAST ? k : pixel) + column);
#pragma unroll
  for (int slab = 0; slab < 2; ++slab) {
    product.spill(slab, sums, Plan::kOutPitch);
    __syncwarp();
    output.write(sums, Plan::kOutPitch, 16 * slab);
    __syncwarp();
  }
}

// ---- launches ----------------------------------------------------------------------------------------------------------

template <class T, int SIZE, bool LAST, bool GATED>
cudaError_t launch_pointwise_tile(PointwiseTask& a, cudaStream_t stream) {
  using Plan = PointwisePlan<T, SIZE, LAST, GATED>;
  a.k_tiles = (a.K + SIZE - 1) / SIZE;
  const int64_t blocks = (a.pixels + SIZE - 1) / SIZE * a.k_tiles;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  const auto kernel = pointwise_kernel<T, SIZE, LAST, GATED>;
  if (Plan::kShared > 48 << 10) {
    const cudaError_t e =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(Plan::kShared));
    if (e != cudaSuccess) return e;
  }
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(Plan::kThreads), Plan::kShared, stream, a);
}

template <class T>
cudaError_t launch_pointwise(PointwiseTask& a, PointwiseTile tile, bool channels_last, cudaStream_t stream) {
  constexpr int V = kPointwiseVector<T>;
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  a.weight_vectors = a.C % V == 0 && aligned(a.weight);
  a.x_vectors = (channels_last ? a.C % V == 0 && aligned(a.gate) : a.HW % V == 0) && aligned(a.x);
  a.y_vectors = (channels_last ? a.K : a.HW) % V == 0 && aligned(a.y) && aligned(a.residual);
  if (tile == PointwiseTile::any) {  // large, where that gives two blocks for each of 132 SMs
    const int64_t blocks = (a.pixels + 127) / 128 * ((a.K + 127) / 128);
    tile = a.K > 64 && blocks >= 264 ? PointwiseTile::large : PointwiseTile::small;
  }
  const auto with_flag = [](bool flag, auto&& f) { return flag ? f(std::true_type()) : f(std::false_type()); };
  return with_flag(channels_last, [&](auto last) {
    if (a.gate) return launch_pointwise_tile<T, 64, last(), true>(a, stream);
    return tile == PointwiseTile::large ? launch_pointwise_tile<T, 128, last(), false>(a, stream)
                                        : launch_pointwise_tile<T, 64, last(), false>(a, stream);
  });
}

// Instantiated in pointwise_f32.cu, pointwise_f16.cu and pointwise_bf16.cu, which can be compiled side by side.
extern template cudaError_t launch_pointwise<float>(PointwiseTask&, PointwiseTile, bool, cudaStream_t);
extern template cudaError_t launch_pointwise<__half>(PointwiseTask&, PointwiseTile, bool, cudaStream_t);
extern template cudaError_t launch_pointwise<__nv_bfloat16>(PointwiseTask&, PointwiseTile, bool, cudaStream_t);

}  // namespace ck::cuda

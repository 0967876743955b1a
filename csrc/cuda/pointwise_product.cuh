// The products of a 1x1 convolution: what a warp adds to its 32 x WN outputs for one chunk of channels in shared memory.
// The first operand has rows of channels (kPointwiseRowPitch apart); the second too, or with PLANES it has the chunk's
// channels as rows of pixels (PITCH apart).
#pragma once
#include "device/mma.cuh"
#include "pointwise_operand.cuh"

namespace ck::cuda {

// Halves: tensor cores.
template <class T, int WN, bool PLANES, int PITCH>
class PointwiseProduct {
  static constexpr int kRowPitch = kPointwiseRowPitch<T>, kTiles = WN / 8;

 public:
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < kTiles; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) acc_[i][j][k] = 0.f;
  }

  // a, b: the warp's first row and column; channels: what is left of them, more than none.
  __device__ void add(const T* a, const T* b, int channels) {
    const int lane = threadIdx.x % 32, low = lane % 8, middle = lane / 8 % 2 * 8, high = lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < kPointwiseDepth<T>; k += 16) {
      if (k >= channels) break;  // zeros
      uint32_t rows[2][4];
#pragma unroll
      for (int i = 0; i < 2; ++i) load_matrices<false>(rows[i], a + (16 * i + low + middle) * kRowPitch + k + high);
#pragma unroll
      for (int j = 0; j < kTiles; j += 2) {
        uint32_t columns[4];  // of tile j: channels k.., k + 8..; of tile j + 1
        if constexpr (PLANES) {
          load_matrices<true>(columns, b + (k + low + middle) * PITCH + 8 * j + high);
        } else {
          load_matrices<false>(columns, b + (8 * j + low + high) * kRowPitch + k + middle);
        }
        const uint32_t first[2] = {columns[0], columns[1]}, second[2] = {columns[2], columns[3]};
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mma_16x8x16<T>(acc_[i][j], rows[i], first);
          mma_16x8x16<T>(acc_[i][j + 1], rows[i], second);
        }
      }
    }
  }

  // Rows 16 * slab to 16 * slab + 15 as [16][pitch].
  __device__ void spill(int slab, float* out, int pitch) const {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (i != slab) continue;  // so that the accumulators keep constant indices
#pragma unroll
      for (int j = 0; j < kTiles; ++j)
#pragma unroll
        for (int below = 0; below < 2; ++below)
          *reinterpret_cast<Vec<float, 2>*>(out + (g + 8 * below) * pitch + 8 * j + 2 * t) = {
              acc_[i][j][2 * below], acc_[i][j][2 * below + 1]};
    }
  }

 private:
  float acc_[2][kTiles][4];
};

// fp32: FFMA, because tensor cores would round the operands to ten bits.  A lane has the 8 rows lane / 8 + 4i and WN / 8
// columns.  It takes two channels at a time: four would need 16 more registers, and two blocks of 256 threads have 128.  A
// warp's addresses of one read are in different banks or the same.
template <int WN, bool PLANES, int PITCH>
class PointwiseProduct<float, WN, PLANES, PITCH> {
  static constexpr int kRowPitch = kPointwiseRowPitch<float>, kColumns = WN / 8;

 public:
  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j) acc_[i][j] = 0.f;
  }

  __device__ void add(const float* a, const float* b, int channels) {
    using Two = Vec<float, 2>;
    using Four = Vec<float, 4>;
    a += static_cast<int>(threadIdx.x) % 32 / 8 * kRowPitch;
#pragma unroll 1  // unrolled, the reads of all would be moved to the front, where the registers do not hold them
    for (int k = 0; k < kPointwiseDepth<float>; k += 2) {
      if (k >= channels) break;
      Two rows[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) rows[i] = *reinterpret_cast<const Two*>(a + 4 * i * kRowPitch + k);
      if constexpr (PLANES) {
#pragma unroll
        for (int e = 0; e < 2; ++e)
#pragma unroll
          for (int j = 0; j < kColumns; j += 4) {
            const Four column = *reinterpret_cast<const Four*>(b + (k + e) * PITCH + column_of(j));
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
              for (int q = 0; q < 4; ++q) acc_[i][j + q] += rows[i].v[e] * column.v[q];
          }
      } else {
#pragma unroll
        for (int j = 0; j < kColumns; ++j) {
          const Two column = *reinterpret_cast<const Two*>(b + column_of(j) * kRowPitch + k);
#pragma unroll
          for (int e = 0; e < 2; ++e)
#pragma unroll
            for (int i = 0; i < 8; ++i) acc_[i][j] += rows[i].v[e] * column.v[e];
        }
      }
    }
  }

  __device__ void spill(int slab, float* out, int pitch) const {
    const int row = threadIdx.x % 32 / 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i / 4 != slab) continue;
#pragma unroll
      for (int j = 0; j < kColumns; ++j) out[(row + i % 4 * 4) * pitch + column_of(j)] = acc_[i][j];
    }
  }

 private:
  // Four neighbours per lane where pixels are neighbours, else every eighth.
  static __device__ int column_of(int j) {
    const int lane = threadIdx.x % 8;
    return PLANES ? 4 * lane + j / 4 * 32 + j % 4 : lane + 8 * j;
  }
  float acc_[8][kColumns];
};

}  // namespace ck::cuda

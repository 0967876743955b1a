// The operands of a 1x1 convolution on their way into shared memory, a chunk of input channels at a time.
//
// A chunk is 64 bytes of channels.  A thread brings two 16-byte vectors of it for each operand: fetch() starts that before
// the products of an earlier chunk, stash() ends it after them.  Vectors are copied asynchronously; where there is a gate
// they wait in registers to be multiplied.  Where addresses are not multiples of 16 bytes (C, or in NCHW the pixels of a
// plane, not a multiple of a vector), stash() loads element by element.  What is beyond an edge is 0.
#pragma once
#include "device/async_copy.cuh"

namespace ck::cuda {

template <class T> constexpr int kPointwiseVector = 16 / static_cast<int>(sizeof(T));
template <class T> constexpr int kPointwiseDepth = 4 * kPointwiseVector<T>;  // channels of a chunk
// A vector more than the row's data: eight rows one below the other then lie in different banks.
template <class T> constexpr int kPointwiseRowPitch = 5 * kPointwiseVector<T>;
template <class T, int COLUMNS> constexpr int kPointwisePlanePitch = COLUMNS + kPointwiseVector<T>;

// x * gate.  In fp32 that is a product as any.  Halves keep the whole product, as the reference does: rounded, and in `rest`
// what rounding left over, which has a tile of its own and takes part in the sums as the first does.
template <class T>
__device__ __forceinline__ T gated(T x, T gate, T& rest) {
  const float product = to_f(x) * to_f(gate);
  const T rounded = from_f<T>(product);
  const float left = product - to_f(rounded);
  rest = from_f<T>(left - left == 0.f ? left : 0.f);  // beside an inf or NaN: nothing
  return rounded;
}

// What the operands have in common: where a thread's vectors go, and how they are stored.
template <class T, bool GATED>
struct PointwiseStore {
  static constexpr int V = kPointwiseVector<T>;
  static constexpr bool kRest = GATED && sizeof(T) == 2;
  using Vector = Vec<T, V>;

  static __device__ __forceinline__ void vector(T* to, T* rest, const Vector& x, const Vector& gate) {
    Vector high, low;
#pragma unroll
    for (int v = 0; v < V; ++v) high.v[v] = gated(x.v[v], gate.v[v], low.v[v]);
    *reinterpret_cast<Vector*>(to) = high;
    if constexpr (kRest) *reinterpret_cast<Vector*>(rest) = low;
  }
  static __device__ __forceinline__ void element(T* to, T* rest, T x, T gate) {
    T low;
    *to = GATED ? gated(x, gate, low) : x;
    if constexpr (kRest) *rest = low;
  }
};

// A matrix [rows, length] with contiguous rows: the weights, and x in channels_last, of which row r has the gate of image
// r / per_gate.  In shared memory: ROWS rows of a chunk, kPointwiseRowPitch apart.
template <class T, int ROWS, int THREADS, bool GATED>
class PointwiseRows {
  using Store = PointwiseStore<T, GATED>;
  using Vector = typename Store::Vector;
  static constexpr int V = Store::V, kCount = ROWS * 4 / THREADS, kStep = THREADS / 4;

 public:
  static constexpr int kElements = ROWS * kPointwiseRowPitch<T>;

  __device__ PointwiseRows(const T* matrix, const T* gate, int64_t first, int64_t rows, int length, int64_t per_gate,
                           bool vectors)
      : column_(static_cast<int>(threadIdx.x) % 4 * V), length_(length), vectors_(vectors) {
    const int64_t row = first + row_of(0), left = (rows - row + kStep - 1) / kStep;
    count_ = left < kCount ? static_cast<int>(left) : kCount;
    row_ = matrix + (left > 0 ? row : 0) * length;
    if constexpr (GATED) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) gate_[i] = gate + (i < count_ ? (row + i * kStep) / per_gate * length : 0);
    }
  }

  __device__ void fetch(AsyncCopies& copies, T* tile, int chunk) {
    if (!vectors_) return;
    const int at = chunk * kPointwiseDepth<T> + column_;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const bool there = i < count_ && at < length_;
      const T* from = there ? row(i) + at : row_;
      if constexpr (!GATED) {
        copies.copy(place(tile, i), from, there);
      } else if (there) {
        x_[i] = *reinterpret_cast<const Vector*>(from);
        factor_[i] = *reinterpret_cast<const Vector*>(gate_[i] + at);
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) x_[i].v[v] = factor_[i].v[v] = from_f<T>(0.f);
      }
    }
  }

  __device__ void stash(T* tile, T* rest, int chunk) {
    if (vectors_) {
      if constexpr (GATED) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) Store::vector(place(tile, i), place(rest, i), x_[i], factor_[i]);
      }
      return;
    }
    const int at = chunk * kPointwiseDepth<T> + column_;
    const T zero = from_f<T>(0.f);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll 4
      for (int v = 0; v < V; ++v) {
        const bool there = i < count_ && at + v < length_;
        const T x = there ? row(i)[at + v] : zero, factor = GATED && there ? gate_[GATED ? i : 0][at + v] : zero;
        Store::element(place(tile, i) + v, place(rest, i) + v, x, factor);
      }
    }
  }

 private:
  static __device__ int row_of(int i) { return static_cast<int>(threadIdx.x) / 4 + i * kStep; }
  __device__ const T* row(int i) const { return row_ + static_cast<int64_t>(i * kStep) * length_; }
  __device__ T* place(T* tile, int i) const { return tile + row_of(i) * kPointwiseRowPitch<T> + column_; }

  const T* row_;  // of the thread's first vector
  const T* gate_[GATED ? kCount : 1];
  int column_, length_, count_;
  bool vectors_;
  Vector x_[GATED ? kCount : 1], factor_[GATED ? kCount : 1];
};

// Offsets in channel 0 of a tensor [N, channels, HW], from pixel to pixel of the whole batch.
class PixelWalk {
 public:
  __device__ PixelWalk(int64_t pixel, int64_t HW, int64_t channels)
      : image(pixel / HW), left_(HW - pixel % HW), HW_(HW), jump_((channels - 1) * HW) {
    offset = image * channels * HW + pixel % HW;
  }
  __device__ void next() {
    ++offset;
    if (--left_ == 0) left_ = HW_, offset += jump_, ++image;
  }
  int64_t offset, image;

 private:
  int64_t left_, HW_, jump_;
};

// x in NCHW: planes [N, channels, HW].  In shared memory: the chunk's channels as rows of COLUMNS pixels, which go on from
// one image to the next, kPointwisePlanePitch apart.
template <class T, int COLUMNS, int THREADS, bool GATED>
class PointwisePlanes {
  using Store = PointwiseStore<T, GATED>;
  using Vector = typename Store::Vector;
  static constexpr int V = Store::V, kPerRow = COLUMNS / V, kCount = kPointwiseDepth<T> * kPerRow / THREADS;
  static constexpr int kPitch = kPointwisePlanePitch<T, COLUMNS>;

 public:
  static constexpr int kElements = kPointwiseDepth<T> * kPitch;

  __device__ PointwisePlanes(const T* x, const T* gate, int64_t first, int64_t pixels, int channels, int64_t HW,
                             bool vectors)
      : x_(x),
        gate_(gate),
        walk_(first + column(), HW, channels),
        HW_(HW),
        channels_(channels),
        valid_(pixels - first - column() < V ? static_cast<int>(pixels - first - column()) : V),
        vectors_(vectors) {}

  __device__ void fetch(AsyncCopies& copies, T* tile, int chunk) {
    if (!vectors_) return;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int c = channel(i, chunk);
      const bool there = valid_ > 0 && c < channels_;
      const T* from = there ? x_ + walk_.offset + c * HW_ : x_;
      if constexpr (!GATED) {
        copies.copy(place(tile, i), from, there);
      } else {
        const T zero = from_f<T>(0.f);
        factor_[i] = there ? gate_[walk_.image * channels_ + c] : zero;
        if (there) {
          held_[i] = *reinterpret_cast<const Vector*>(from);
        } else {
#pragma unroll
          for (int v = 0; v < V; ++v) held_[i].v[v] = zero;
        }
      }
    }
  }

  __device__ void stash(T* tile, T* rest, int chunk) {
    if (vectors_) {
      if constexpr (GATED) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          Vector same;
#pragma unroll
          for (int v = 0; v < V; ++v) same.v[v] = factor_[i];
          Store::vector(place(tile, i), place(rest, i), held_[i], same);
        }
      }
      return;
    }
    const T zero = from_f<T>(0.f);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const int c = channel(i, chunk);
      PixelWalk walk = walk_;
#pragma unroll 4
      for (int v = 0; v < V; ++v, walk.next()) {
        const bool there = v < valid_ && c < channels_;
        const T x = there ? x_[walk.offset + c * HW_] : zero;
        const T factor = GATED && there ? gate_[walk.image * channels_ + c] : zero;
        Store::element(place(tile, i) + v, place(rest, i) + v, x, factor);
      }
    }
  }

 private:
  static __device__ int column() { return static_cast<int>(threadIdx.x) % kPerRow * V; }
  static __device__ int row_of(int i) { return static_cast<int>(threadIdx.x) / kPerRow + i * (THREADS / kPerRow); }
  static __device__ int channel(int i, int chunk) { return chunk * kPointwiseDepth<T> + row_of(i); }
  __device__ T* place(T* tile, int i) const { return tile + row_of(i) * kPitch + column(); }

  const T *x_, *gate_;
  PixelWalk walk_;  // at the thread's first pixel
  int64_t HW_;
  int channels_, valid_;
  bool vectors_;
  Vector held_[GATED ? kCount : 1];
  T factor_[GATED ? kCount : 1];
};

}  // namespace ck::cuda

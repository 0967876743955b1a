// Spatial pyramid pooling kernels.
//
// A block owns a tile: a plane in NCHW, `lanes` channels of an image in channels_last.  It reads x once into shared memory
// and pools it there from size to size, rows and columns one after the other: for 5, 9, 13, 24 maxima an element in place of
// 275, and (1 + count) writes for one read.  Maps that shared memory does not hold (beyond 78 x 78 in fp32) take the kernels
// that look at every window in global memory.
#pragma once
#include "../math/order_key.h"
#include "../math/spp_shape.h"
#include "device/ck_cuda.cuh"

namespace ck::cuda {

constexpr int kSppThreads = 256;
constexpr int64_t kSppSharedBytes = 48 * 1024;

// Element type -> the integer of its bits, that of infinity, and one for pairs of it and a place in a tile.
template <class T> struct SppBits;
template <> struct SppBits<float> {
  using type = int32_t;
  using pair = int64_t;
  static constexpr type infinity = 0x7f800000;
};
template <> struct SppBits<__half> {
  using type = int16_t;
  using pair = int32_t;
  static constexpr type infinity = 0x7c00;
};
template <> struct SppBits<__nv_bfloat16> {
  using type = int16_t;
  using pair = int32_t;
  static constexpr type infinity = 0x7f80;
};
template <class T> using SppKey = typename SppBits<T>::type;
template <class T> using SppPair = typename SppBits<T>::pair;

template <class T> CK_HD SppKey<T> spp_key(SppKey<T> bits) { return Order<SppKey<T>>::key(bits, SppBits<T>::infinity); }

// Where a block's tile lies.  Its elements count as (h, w, lane), lane fastest.
struct SppTile {
  int64_t n, channel;
  int H, W, lanes;

  CK_HD SppTile(const SppShape& s, int64_t block, int most_lanes) : H(static_cast<int>(s.H)), W(static_cast<int>(s.W)) {
    const int64_t blocks = (s.C + most_lanes - 1) / most_lanes;
    n = block / blocks, channel = block % blocks * most_lanes;
    lanes = s.C - channel < most_lanes ? static_cast<int>(s.C - channel) : most_lanes;
  }
  CK_HD int size() const { return H * W * lanes; }
  // The place of element t in a tensor of so many channels, the tile's first being `from` there.
  CK_HD int64_t at(bool channels_last, int64_t channels, int64_t from, int t) const {
    const int64_t plane = static_cast<int64_t>(H) * W;
    if (!channels_last) return (n * channels + from) * plane + t;
    return (n * plane + t / lanes) * channels + from + t % lanes;
  }
};

// to = the maxima of from over `radius` elements to both sides along an axis of `size` elements, `stride` apart.
template <class K>
__device__ void spp_widen(const K* from, K* to, int count, int radius, int stride, int size) {
  for (int t = threadIdx.x; t < count; t += blockDim.x) {
    const int i = t / stride % size, before = i < radius ? i : radius,
              after = size - 1 - i < radius ? size - 1 - i : radius;
    K most = from[t];
    for (int j = 1; j <= before; ++j) most = from[t - j * stride] > most ? from[t - j * stride] : most;
    for (int j = 1; j <= after; ++j) most = from[t + j * stride] > most ? from[t + j * stride] : most;
    to[t] = most;
  }
  __syncthreads();
}
template <class K>
__device__ void spp_widen(K* tile, K* other, const SppTile& t, int radius) {
  spp_widen(tile, other, t.size(), radius, t.lanes, t.W);
  spp_widen(other, tile, t.size(), radius, t.lanes * t.W, t.H);
}

template <class T>
__global__ void __launch_bounds__(kSppThreads)
    spp_tile_kernel(SppShape s, int most_lanes, const SppKey<T>* x, SppKey<T>* y) {
  using K = SppKey<T>;
  CK_DYN_SHARED(tile, K);
  const SppTile t(s, blockIdx.x, most_lanes);
  K* const other = tile + t.size();
  const int64_t channels = s.slots() * s.C;
  for (int e = threadIdx.x; e < t.size(); e += blockDim.x) {
    const K bits = x[t.at(s.channels_last, s.C, t.channel, e)];
    y[t.at(s.channels_last, channels, t.channel, e)] = bits;
    tile[e] = spp_key<T>(bits);
  }
  __syncthreads();
  int radius = 0;
  for (int k = 0; k < s.count; ++k) {
    spp_widen(tile, other, t, static_cast<int>(s.radius[k]) - radius);
    radius = static_cast<int>(s.radius[k]);
    for (int e = threadIdx.x; e < t.size(); e += blockDim.x)
      y[t.at(s.channels_last, channels, s.slot[k] * s.C + t.channel, e)] = Order<K>::bits(tile[e]);
  }
}

// A thread gathers what its elements receive, in scan order: no atomics, and the same sums every time.  Windows are nested, so
// what is the maximum of none of one size is that of none of the next: most elements stop after the first.
template <class T>
__global__ void __launch_bounds__(kSppThreads)
    spp_tile_backward_kernel(SppShape s, int most_lanes, const T* grad, const SppKey<T>* x, T* dx) {
  using P = Placed<SppPair<T>, SppKey<T>>;
  CK_DYN_SHARED(tile, SppPair<T>);
  const SppTile t(s, blockIdx.x, most_lanes);
  SppPair<T>* const other = tile + t.size();
  float* const sums = reinterpret_cast<float*>(other + t.size());
  unsigned char* const found = reinterpret_cast<unsigned char*>(sums + t.size());
  const int64_t channels = s.slots() * s.C;
  for (int e = threadIdx.x; e < t.size(); e += blockDim.x) {
    tile[e] = P::pair(spp_key<T>(x[t.at(s.channels_last, s.C, t.channel, e)]), e);
    sums[e] = to_f(grad[t.at(s.channels_last, channels, t.channel, e)]);
    found[e] = 1;
  }
  __syncthreads();
  int radius = 0;
  for (int k = 0; k < s.count; ++k) {
    spp_widen(tile, other, t, static_cast<int>(s.radius[k]) - radius);
    radius = static_cast<int>(s.radius[k]);
    const int64_t slot = s.slot[k] * s.C + t.channel;
    for (int e = threadIdx.x; e < t.size(); e += blockDim.x) {
      if (!found[e]) continue;
      const int lane = e % t.lanes, w = e / t.lanes % t.W, h = e / t.lanes / t.W;
      const int top = h < radius ? 0 : h - radius, bottom = t.H - 1 - h < radius ? t.H - 1 : h + radius;
      const int left = w < radius ? 0 : w - radius, right = t.W - 1 - w < radius ? t.W - 1 : w + radius;
      float sum = 0;
      bool any = false;
      for (int i = top; i <= bottom; ++i) {
        for (int j = left; j <= right; ++j) {
          const int window = (i * t.W + j) * t.lanes + lane;
          if (P::place(tile[window]) == e) {
            any = true;
            sum += to_f(grad[t.at(s.channels_last, channels, slot, window)]);
          }
        }
      }
      sums[e] += sum;
      found[e] = any;
    }
    __syncthreads();  // before the next size overwrites the tile
  }
  for (int e = threadIdx.x; e < t.size(); e += blockDim.x)
    dx[t.at(s.channels_last, s.C, t.channel, e)] = from_f<T>(sums[e]);
}

// ---- maps of any size, from global memory ---------------------------------------------------------------------------------

// The element of a thread: in x, in slot 0 of y, and the steps from it.  A block stays within a plane in NCHW, within an image
// in channels_last; these have fewer than 2^31 elements, so that divisions are of 32 bits.
struct SppPlace {
  int64_t x, y;
  int64_t column, row;  // to the neighbours in x
  int64_t spread;       // they lie so much farther apart in y
  int64_t slot;         // from slot to slot of y
  int h, w;
  bool valid;

  CK_HD static int64_t unit(const SppShape& s) { return (s.channels_last ? s.C : 1) * s.H * s.W; }
  CK_HD static int64_t blocks(const SppShape& s) { return (unit(s) + kSppThreads - 1) / kSppThreads; }

  CK_HD SppPlace(const SppShape& s, uint32_t block, uint32_t thread) {
    const uint32_t size = static_cast<uint32_t>(unit(s)), C = static_cast<uint32_t>(s.C);
    const uint32_t blocks = (size + kSppThreads - 1) / kSppThreads, u = block / blocks;
    const uint32_t at = (block - u * blocks) * kSppThreads + thread;
    valid = at < size;
    x = static_cast<int64_t>(u) * size + at;
    const uint32_t image = s.channels_last ? u : u / C, pixel = s.channels_last ? at / C : at;
    h = static_cast<int>(pixel / static_cast<uint32_t>(s.W));
    w = static_cast<int>(pixel - h * static_cast<uint32_t>(s.W));
    column = s.channels_last ? s.C : 1, row = column * s.W;
    spread = s.channels_last ? s.slots() : 1, slot = column * (s.channels_last ? 1 : s.C * s.H * s.W);
    // What lies before x in y: s.count more of every whole image, and in channels_last of every whole pixel.
    const int64_t before = s.channels_last ? static_cast<int64_t>(image) * size + static_cast<int64_t>(pixel) * C
                                           : static_cast<int64_t>(image) * s.C * size;
    y = x + s.count * before;
  }
};

struct SppWindow {
  int top, bottom, left, right;
  CK_HD SppWindow(const SppShape& s, int h, int w, int64_t radius)
      : top(h < radius ? 0 : h - static_cast<int>(radius)),
        bottom(s.H - 1 - h < radius ? static_cast<int>(s.H) - 1 : h + static_cast<int>(radius)),
        left(w < radius ? 0 : w - static_cast<int>(radius)),
        right(s.W - 1 - w < radius ? static_cast<int>(s.W) - 1 : w + static_cast<int>(radius)) {}
};

// A thread owns an element of x and its maxima of all sizes.
template <class T>
__global__ void __launch_bounds__(kSppThreads) spp_any_kernel(SppShape s, const SppKey<T>* x, SppKey<T>* y) {
  const SppPlace p(s, blockIdx.x, threadIdx.x);
  if (!p.valid) return;
  SppKey<T>* const out = y + p.y;
  const SppKey<T>* const plane = x + p.x - p.h * p.row - p.w * p.column;
  out[0] = x[p.x];
  for (int k = 0; k < s.count; ++k) {
    const SppWindow window(s, p.h, p.w, s.radius[k]);
    SppKey<T> most = Order<SppKey<T>>::kLeast;
    for (int i = window.top; i <= window.bottom; ++i) {
      for (int j = window.left; j <= window.right; ++j) {
        const SppKey<T> key = spp_key<T>(plane[i * p.row + j * p.column]);
        most = key > most ? key : most;
      }
    }
    out[s.slot[k] * p.slot] = Order<SppKey<T>>::bits(most);
  }
}

// A thread owns an element of x and asks of every window around it whether it is the maximum there; the answer is mostly no,
// after a few elements.
template <class T>
__global__ void __launch_bounds__(kSppThreads)
    spp_any_backward_kernel(SppShape s, const T* grad, const SppKey<T>* x, T* dx) {
  using P = Placed<int64_t, SppKey<T>>;
  const SppPlace p(s, blockIdx.x, threadIdx.x);
  if (!p.valid) return;
  const SppKey<T>* const plane = x + p.x - p.h * p.row - p.w * p.column;
  const int64_t mine = P::pair(spp_key<T>(x[p.x]), static_cast<int64_t>(p.h) * s.W + p.w);
  const T* const incoming = grad + p.y;
  float total = to_f(*incoming);
  bool any = true;
  for (int k = 0; k < s.count && any; ++k) {
    const SppWindow around(s, p.h, p.w, s.radius[k]);
    any = false;
    float sum = 0;
    for (int h = around.top; h <= around.bottom; ++h) {
      for (int w = around.left; w <= around.right; ++w) {
        const SppWindow window(s, h, w, s.radius[k]);
        bool greatest = true;
        for (int i = window.top; i <= window.bottom && greatest; ++i)
          for (int j = window.left; j <= window.right && greatest; ++j)
            greatest = P::pair(spp_key<T>(plane[i * p.row + j * p.column]), i * s.W + j) <= mine;
        if (greatest) {
          any = true;
          const int64_t there = ((h - p.h) * p.row + (w - p.w) * p.column) * p.spread;
          sum += to_f(incoming[there + s.slot[k] * p.slot]);
        }
      }
    }
    total += sum;
  }
  dx[p.x] = from_f<T>(total);
}

}  // namespace ck::cuda

// Maxima over windows at stride 1, larger and larger, of one tile in the cache.
//
// A tile is [H, W, lanes]: one plane of an NCHW image, or some channels of a channels_last one.  Its rows stand apart by two
// columns of least values, and two rows of them lie above and below, so that a step of up to 2 rows or columns is one loop
// over all of the tile without a test, on vectors that do not care where rows end: with rows of 13 elements they are full.
// K: an integer (math/order_key.h), for which compilers have vector maxima on every instruction set.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../math/order_key.h"
#include "scratch.h"
#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

template <class K>
class PoolCascade {
 public:
  // For tiles of up to `lanes` lanes.
  PoolCascade(int64_t height, int64_t width, int64_t lanes, K least)
      : height_(height), width_(width), least_(least), size_((height + 4) * (width + 2) * lanes + 4 * lanes) {
    for (Scratch<K>& m : memory_) m = uninitialised<K>(size_);
  }

  // Begins a tile of so many lanes: the caller then writes its rows and calls `close`.
  void begin(int64_t lanes) {
    if (lanes == lanes_) return;
    lanes_ = lanes, pitch_ = (width_ + 2) * lanes;
    for (Scratch<K>& m : memory_) std::fill_n(m.get(), size_, least_);
  }
  // Element (h, w, lane) is row(h)[w * lanes + lane].
  K* row(int64_t h) { return tile(now_) + h * pitch_; }

  // Takes back what was written between the rows.
  void close() {
    K* gap = row(0) + width_ * lanes_;
    if (lanes_ == 1) {  // two stores a row: the general loop takes ten times that to begin
      for (int64_t h = 0; h < height_; ++h, gap += pitch_) gap[0] = gap[1] = least_;
    } else {
      for (int64_t h = 0; h < height_; ++h, gap += pitch_) std::fill_n(gap, 2 * lanes_, least_);
    }
  }

  // Every element becomes the greatest within `radius` rows and columns more.
  void widen(int64_t radius) {
    widen(std::min(radius, width_ - 1), lanes_, true);
    widen(std::min(radius, height_ - 1), pitch_, false);
  }

 private:
  K* tile(int which) { return memory_[which].get() + 2 * pitch_ + 2 * lanes_; }

  void widen(int64_t radius, int64_t stride, bool spoils_gaps) {
    for (; radius > 0; radius -= 2) {
      const K* from = tile(now_);
      K* to = tile(1 - now_);
      if (radius == 1) maxima<1>(from, to, height_ * pitch_, stride);
      else maxima<2>(from, to, height_ * pitch_, stride);
      now_ = 1 - now_;
      if (spoils_gaps) close();
    }
  }

  template <int R>
  static void maxima(const K* __restrict from, K* __restrict to, int64_t n, int64_t stride) {
    for (int64_t i = 0; i < n; ++i) {
      K most = from[i];
      for (int r = 1; r <= R; ++r) most = std::max(most, std::max(from[i - r * stride], from[i + r * stride]));
      to[i] = most;
    }
  }

  const int64_t height_, width_;
  const K least_;
  const int64_t size_;
  int64_t lanes_ = 0, pitch_ = 0;
  int now_ = 0;
  Scratch<K> memory_[2];
};

}  // namespace
}  // namespace ck::cpu::CK_ISA

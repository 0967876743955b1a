// What becomes of the sums of a matrix product: activation, residual, rounding.
#pragma once
#include "../math/activation.h"
#include "finish.h"
#include "gemm_tile.h"

namespace ck::cpu::CK_ISA {
namespace {

// fp32 goes straight to y where nothing but clamping and adding follows.  Otherwise a panel's sums stay in scratch, in the
// accumulate type, until activation, residual and rounding turn them into y.
template <class T>
class Epilogue {
  using A = Acc<T>;
  using VA = V<T>;
  static constexpr int N = VA::N;

 public:
  Epilogue(void* y, const void* residual, Act act, double slope)
      : y_(static_cast<T*>(y)),
        residual_(static_cast<const T*>(residual)),
        act_(act),
        slope_(static_cast<A>(slope)),
        clamp_is_all_(act == Act::identity || act == Act::relu || act == Act::relu6),
        low_(act == Act::relu || act == Act::relu6 ? A(0) : -INFINITY),
        high_(act == Act::relu6 ? A(6) : INFINITY) {}

  // y of one panel: p.rows runs of `width` values that lie y_row apart and begin at `at`.
  void run(PanelArgs<A> p, int64_t width, int64_t at, int64_t y_row) const {
    p.last = static_cast<int>(width - (p.vectors - 1) * N);
    p.low = clamp_is_all_ ? low_ : VA(-INFINITY), p.high = clamp_is_all_ ? high_ : VA(INFINITY);
    if constexpr (std::is_same_v<T, A>)
      if (clamp_is_all_) {
        p.c = y_ + at, p.c_row = y_row;
        p.add = residual_ ? residual_ + at : nullptr;
        return panel(p);
      }
    // A few tiles at a time: their sums are still in the L1 cache when they are finished.
    constexpr int64_t kRows = 48;
    alignas(64) A sums[kRows * kMaxVectors<A> * N];
    const int64_t rows = p.rows;
    p.c = sums, p.c_row = p.vectors * N, p.add = nullptr;
    const int64_t parts = up(rows, kRows), step = up(rows, parts);
    for (int64_t r = 0; r < rows; r += step) {
      p.rows = std::min(step, rows - r);
      panel(p);
      const int64_t to = at + r * y_row;
      finish_rows<T>(clamp_is_all_ ? Act::identity : act_, slope_, sums, p.c_row, p.rows, width, y_ + to,
                     residual_ ? residual_ + to : nullptr, y_row);
      p.a += step * p.a_row;
      if (p.row_scale) p.row_scale += step, p.row_shift += step;
    }
  }

 private:
  T* y_;
  const T* residual_;
  Act act_;
  A slope_;
  bool clamp_is_all_;
  VA low_, high_;
};

}  // namespace
}  // namespace ck::cpu::CK_ISA

// Sums on their way to y: activation, residual, rounding.
#pragma once
#include <cstdint>

#include "../math/activation.h"
#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

// `rows` runs of `width` sums, `pitch` apart, become runs of y, y_row apart; add: runs like those of y, or null.
template <class T>
void finish_rows(Act act, Acc<T> slope_value, const Acc<T>* sums, int64_t pitch, int64_t rows, int64_t width, T* y,
                 const T* add, int64_t y_row) {
  using VA = V<T>;
  constexpr int N = VA::N;
  const VA slope(slope_value);
  with_act(act, [&](auto chosen) {
    for (int64_t r = 0; r < rows; ++r, sums += pitch, y += y_row) {
      const auto value = [&](int64_t i)
                             __attribute__((always_inline)) { return activate<chosen()>(vload(sums + i), slope); };
      int64_t i = 0;
      if (!add)  // two vectors a turn keep both FMA pipes busy
        for (; i + 2 * N <= width; i += 2 * N) {
          const VA v = value(i), w = value(i + N);
          store(y + i, v);
          store(y + i + N, w);
        }
      for (; i + N <= width; i += N) store(y + i, add ? value(i) + vload(add + i) : value(i));
      // Apart, so that the compiler fuses the residual into the last product here as above: the bits must not depend on
      // where a run ends, because that depends on the number of threads.
      if (const int n = static_cast<int>(width - i)) {
        if (add) store_n(y + i, activate<chosen()>(vload_n(sums + i, n), slope) + vload_n(add + i, n), n);
        else store_n(y + i, activate<chosen()>(vload_n(sums + i, n), slope), n);
      }
      if (add) add += y_row;
    }
  });
}

}  // namespace
}  // namespace ck::cpu::CK_ISA

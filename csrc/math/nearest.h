// Nearest-neighbour enlargement, the rule that upsample_add's kernels share, which is PyTorch's for mode="nearest".
#pragma once
#include <cmath>
#include <cstdint>

#include "activation.h"  // CK_HD
#include "dtype.h"

namespace ck {

// Rows or columns: `from` of them shown as `to`.  Pixel i of `to` shows pixel min(floor(i * scale), from - 1), where the scale
// from / to and the product are fp32.
struct NearestAxis {
  int from, to;
  float scale, inverse;

  NearestAxis(int64_t from, int64_t to)
      : from(static_cast<int>(from)),
        to(static_cast<int>(to)),
        scale(static_cast<float>(from) / static_cast<float>(to)),
        inverse(static_cast<float>(to) / static_cast<float>(from)) {}

  CK_HD int source(int i) const {
    const int s = static_cast<int>(floorf(static_cast<float>(i) * scale));
    return s < from - 1 ? s : from - 1;
  }
  // The first pixel that shows s or one after it; `to` for s = from.  An estimate, and then steps of the rule itself.
  CK_HD int first(int s) const {
    int i = static_cast<int>(static_cast<float>(s) * inverse);
    if (i > to) i = to;
    while (i > 0 && source(i - 1) >= s) --i;
    while (i < to && source(i) < s) ++i;
    return i;
  }
};

// x is [N, C, rows.from, columns.from], y is [N, C, rows.to, columns.to]; both dense in one layout.
struct UpsampleShape {
  Dtype dtype;
  int64_t N, C;
  NearestAxis rows, columns;
  bool channels_last;

  int64_t small() const { return N * C * rows.from * columns.from; }  // elements
  int64_t large() const { return N * C * rows.to * columns.to; }
};

}  // namespace ck

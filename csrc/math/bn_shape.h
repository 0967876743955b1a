// How batch-norm kernels see a tensor, shared by the CPU and the CUDA kernels.
#pragma once
#include <cstdint>

#include "dtype.h"

namespace ck {

// x as [N, C, S], S being the product of the spatial sizes (1 if there are none); stored N, S, C if channels_last.
struct BnShape {
  Dtype dtype;
  int64_t N, C, S;
  bool channels_last;
  int64_t values() const { return N * S; }  // per channel
  int64_t numel() const { return N * C * S; }
};

}  // namespace ck

// Dense convolution of a few channels, a network's first: a matrix product whose operand is x where it is.
#pragma once
#include "../math/activation.h"
#include "isa.h"
#include "packed.h"
#include "parallel.h"

namespace ck::cpu {
struct StemConvArgs {
  const float* x;       // [N, H, W, C]
  const float* packed;  // by pointwise_pack, [kh * kw * C] to K channels
  float* y;             // [N, P, Q, K]: act(conv(x) + shift)
  int64_t N, C, H, W, P, Q, K;
  int kh, kw, sh, sw, top, left;
  Act act;
  double slope;
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(stem_conv, ck::cpu::StemConvArgs)

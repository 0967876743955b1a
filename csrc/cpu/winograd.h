// 3x3 convolution at stride 1 by Winograd's F(2x2, 3x3): Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural
// Networks", arXiv:1509.09308.
#pragma once
#include "../math/activation.h"
#include "isa.h"
#include "packed.h"
#include "parallel.h"
#include "pointwise.h"

namespace ck::cpu {
struct WinogradArgs {
  const float* x;  // [N, H, W, C]
  const float*
      packed;  // 16 times pointwise_pack's [K, C]: G g G^T, element by element, row by row; the first has the shift
  const float* shortcut;  // like y, or null
  const float* residual;  // like y, or null
  float* y;               // [N, P, Q, K]: act(conv(x) + shift + shortcut) + residual
  int64_t N, C, H, W, P, Q, K;
  int top, left;
  Act act;
  double slope;
  Pool pool;
};
constexpr int64_t kWinogradChannels = 16;  // C and K are multiples of this
inline int64_t winograd_packed_size(int64_t C, int64_t K) { return 16 * pointwise_packed_size(C, K); }
}  // namespace ck::cpu
CK_CPU_KERNEL(winograd, ck::cpu::WinogradArgs)

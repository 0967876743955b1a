// y = act(x), and dx = dy * act'(x), over n contiguous elements.
#pragma once
#include <cstdint>

#include "../math/activation.h"
#include "../math/dtype.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct ActivationArgs {
  Dtype dtype;
  const void* x;
  const void* grad;  // dy for the backward kernel; unused by the forward one
  void* out;
  int64_t n;
  Act act;
  double slope;
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(activation_forward, ck::cpu::ActivationArgs)
CK_CPU_KERNEL(activation_backward, ck::cpu::ActivationArgs)

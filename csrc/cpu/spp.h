// Spatial pyramid pooling and its gradient (math/spp_shape.h).
#pragma once
#include "../math/dtype.h"
#include "../math/spp_shape.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct SppArgs {
  Dtype dtype;
  SppShape shape;
  const void* x;
  void* y;
  Pool pool;
};
struct SppBackwardArgs {
  Dtype dtype;
  SppShape shape;
  const void* grad;  // as y
  const void* x;
  void* dx;  // as x: every window's gradient at its maximum (math/order_key.h says which that is)
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(spp, ck::cpu::SppArgs)
CK_CPU_KERNEL(spp_backward, ck::cpu::SppBackwardArgs)

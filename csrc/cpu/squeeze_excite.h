// y = x * gate(w2 act(w1 mean(x) + b1) + b2), and all gradients of it.
#pragma once
#include "../math/dtype.h"
#include "../math/squeeze_excite_shape.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct SqueezeExciteArgs {
  Dtype dtype;  // of every tensor
  SqueezeExciteShape shape;
  const void *x, *w1, *b1, *w2, *b2;  // biases may be null
  void* y;                            // null: the gates are all that is wanted
  Pool pool;
  void* gates = nullptr;  // [N, C] in the accumulate type, or null
};
struct SqueezeExciteBackwardArgs {
  Dtype dtype;
  SqueezeExciteShape shape;
  const void *grad, *x, *w1, *b1, *w2, *b2;
  void *dx, *dw1, *db1, *dw2, *db2;
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(squeeze_excite_forward, ck::cpu::SqueezeExciteArgs)
CK_CPU_KERNEL(squeeze_excite_backward, ck::cpu::SqueezeExciteBackwardArgs)

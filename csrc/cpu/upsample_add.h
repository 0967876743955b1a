// y plus x at y's size; and the gradient of x (math/nearest.h).  Results are the same for any number of threads.
#pragma once
#include "../math/nearest.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {

struct UpsampleAddArgs {
  UpsampleShape shape;
  const void *x, *y;
  void* out;
  Pool pool;
};

struct UpsampleAddBackwardArgs {
  UpsampleShape shape;
  const void* grad;
  void* dx;
  Pool pool;
};

}  // namespace ck::cpu
CK_CPU_KERNEL(upsample_add_forward, ck::cpu::UpsampleAddArgs)
CK_CPU_KERNEL(upsample_add_backward, ck::cpu::UpsampleAddBackwardArgs)

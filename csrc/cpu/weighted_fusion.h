// Maps weighted, added up and activated; and the gradients (math/weighted_fusion.h).  All maps are dense, in one order.
//
// weights and dweights: [maps] of the accumulate type, double for fp64, else float.  Every result is the same for any number
// of threads.
#pragma once
#include "../math/weighted_fusion.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {

struct WeightedFusionArgs {
  FusionShape shape;
  const void* x[kMostMaps];
  const void* weights;
  void* y;
  double eps;
  Act act;
  double slope;
  Pool pool;
};

struct WeightedFusionBackwardArgs {
  FusionShape shape;
  const void* grad;
  const void* x[kMostMaps];
  const void* weights;
  void* dx[kMostMaps];
  void* dweights;
  double eps;
  Act act;
  double slope;
  Pool pool;
};

}  // namespace ck::cpu
CK_CPU_KERNEL(weighted_fusion_forward, ck::cpu::WeightedFusionArgs)
CK_CPU_KERNEL(weighted_fusion_backward, ck::cpu::WeightedFusionBackwardArgs)

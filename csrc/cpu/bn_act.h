// Batch norm and activation without the convolution, on x = [N, C, S] in either layout (csrc/math/bn_shape.h).
//
//   bn_act_forward          y = act(scale_c * x + shift_c) (+ residual)
//   bn_act_backward         g = grad * act'(scale_c * x + shift_c);  dx = scale_c * g, dscale = sum g * x, dshift = sum g
//   channel_stats           mean_c and biased var_c over N and S
//   bn_act_train_forward    channel_stats, then y = act(weight_c * (x - mean_c) / sqrt(var_c + eps) + bias_c) (+ residual)
//   bn_act_train_backward   dx, dweight, dbias of that, mean and var being functions of x
//   bn_grad_sums            dweight and dbias alone, and what dx is made of:
//                           dx = scale_c * grad * act'(scale_c * d + shift_c) + slant_c * d + offset_c,  d = x - mean_c
//
// Per-channel arrays have C elements of the accumulate type: double for fp64, else float.  weight, bias and residual may
// be null.  Every result is the same for any number of threads.
#pragma once
#include "../math/activation.h"
#include "../math/bn_shape.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {

struct BnActArgs {
  BnShape shape;
  const void *x, *scale, *shift, *residual;
  void* y;
  Act act;
  double slope;
  Pool pool;
};

struct BnActBackwardArgs {
  BnShape shape;
  const void *grad, *x, *scale, *shift;
  void *dx, *dscale, *dshift;
  Act act;
  double slope;
  Pool pool;
};

struct ChannelStatsArgs {
  BnShape shape;
  const void* x;
  void *mean, *var;
  Pool pool;
};

struct BnActTrainArgs {
  BnShape shape;
  const void *x, *weight, *bias, *residual;
  void *y, *mean, *var;
  double eps;
  Act act;
  double slope;
  Pool pool;
};

struct BnActTrainBackwardArgs {
  BnShape shape;
  const void *grad, *x, *mean, *var, *weight, *bias;
  void *dx, *dweight, *dbias;
  double eps;
  Act act;
  double slope;
  Pool pool;
};

struct BnGradSumsArgs {
  BnShape shape;
  const void *grad, *x, *mean, *var, *weight, *bias;
  void *dweight, *dbias;
  void *scale, *shift, *slant, *offset;  // [C] each
  double eps;
  Act act;
  double slope;
  int64_t begin, end;  // channels
  Pool pool;
};

}  // namespace ck::cpu
CK_CPU_KERNEL(bn_act_forward, ck::cpu::BnActArgs)
CK_CPU_KERNEL(bn_act_backward, ck::cpu::BnActBackwardArgs)
CK_CPU_KERNEL(channel_stats, ck::cpu::ChannelStatsArgs)
CK_CPU_KERNEL(bn_act_train_forward, ck::cpu::BnActTrainArgs)
CK_CPU_KERNEL(bn_act_train_backward, ck::cpu::BnActTrainBackwardArgs)
CK_CPU_KERNEL(bn_grad_sums, ck::cpu::BnGradSumsArgs)

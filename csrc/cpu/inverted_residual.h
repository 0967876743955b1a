// Expansion, depthwise convolution, squeeze-and-excitation and projection of an inverted residual without storing the maps
// in between.
#pragma once
#include "../math/activation.h"
#include "../math/dwconv_shape.h"
#include "../math/squeeze_excite_shape.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct InvertedResidualArgs {
  const float* x;                       // [N, H, W, C]
  const float* expand;                  // weights packed by pointwise_pack, C to hidden channels; null: hidden is C
  const float *weight, *scale, *shift;  // of the depthwise convolution, as dwconv takes them
  const float* project;                 // packed, hidden to K channels
  float* y;                             // [N, P, Q, K]
  DwConvShape depthwise;                // C is hidden
  int64_t C, K;
  bool residual;  // whether x is added to y
  Act act;        // after the expansion and the depthwise convolution
  double slope;
  Pool pool;
  const float *w1, *b1, *w2,
      *b2;                     // layers of the squeeze-and-excitation after the depthwise convolution; w1 null: none
  SqueezeExciteShape squeeze;  // of one image
};
}  // namespace ck::cpu
CK_CPU_KERNEL(inverted_residual, ck::cpu::InvertedResidualArgs)

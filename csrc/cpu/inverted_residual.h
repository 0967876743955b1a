// Expansion, depthwise convolution, squeeze-and-excitation and projection of an inverted residual, or of the units of
// ShuffleNetV2, without storing the maps in between.
#pragma once
#include "../math/activation.h"
#include "../math/dwconv_shape.h"
#include "../math/squeeze_excite_shape.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct InvertedResidualArgs {
  const float* x;  // [N, H, W, C], x_pixel from pixel to pixel
  int64_t x_pixel;
  const float* expand;     // weights packed by pointwise_pack, C to hidden channels; null: hidden is C
  const float* depthwise;  // packed by dwconv_pack
  const float* project;    // packed by pointwise_pack, hidden to K channels
  float* y;                // [N, P, Q, K]
  DwConvShape shape;       // C is hidden
  int64_t C, K;
  bool residual;  // whether x, dense, is added to y
  Act act, depthwise_act, project_act;
  double slope;  // of every one of them that has one
  Pool pool;
  // Layers of the squeeze-and-excitation after the depthwise convolution; w1 null: none.
  const float *w1 = nullptr, *b1 = nullptr, *w2 = nullptr, *b2 = nullptr;
  SqueezeExciteShape squeeze{};  // of one image
  // [N, P, Q, K], or null.  With it y is [N, P, Q, 2 K], and channels of beside and of the block take turns.
  const float* beside = nullptr;
  int64_t beside_pixel = 0;
  const InvertedResidualArgs* left = nullptr;  // makes what is beside the block; its x and y are not used
};

// Units of ShuffleNetV2 one after the other: a right branch beside the left half of its x, or beside a left branch.
struct ShuffleStageArgs {
  const InvertedResidualArgs* units;  // their x, y and pool are not used
  int count;
  const float* x;
  float* y;
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(inverted_residual, ck::cpu::InvertedResidualArgs)
CK_CPU_KERNEL(shuffle_stage, ck::cpu::ShuffleStageArgs)

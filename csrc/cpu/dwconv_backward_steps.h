// The gradients of any depthwise convolution without a batch norm behind it (args.bn is null), by stride phases.
#pragma once
#include "dwconv_backward.h"

namespace ck::cpu::CK_ISA {
void dwconv_backward_steps(const DwConvBackwardArgs& a);
}  // namespace ck::cpu::CK_ISA

// The gradients of a channels_last batch, with or without a batch norm, for the kernels that have tiles.
#pragma once
#include "dwconv_backward.h"

namespace ck::cpu::CK_ISA {
// False, and nothing done, where it does not apply.
bool dwconv_backward_blocks(const DwConvBackwardArgs& a);
}  // namespace ck::cpu::CK_ISA

// Focus and its inverse (math/focus_shape.h).
#pragma once
#include "../math/focus_shape.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct FocusArgs {
  FocusShape shape;
  const void* from;
  void* to;
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(focus, ck::cpu::FocusArgs)

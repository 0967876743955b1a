// 1 - overlap of n pairs of boxes, each or in sum, and its gradients.
#pragma once
#include <cstdint>

#include "../math/box_iou_loss.h"
#include "../math/dtype.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct BoxIouLossArgs {
  Dtype dtype;         // of the boxes; losses and their gradients are double for f64, else float
  const void* pred;    // [n, 4]: x1, y1, x2, y2
  const void* target;  // [n, 4]
  int64_t n;
  Overlap kind;
  Reduction reduction;
  void* loss;         // forward: [n], or one value
  const void* grad;   // backward: of what the forward kernel writes
  int64_t grad_step;  // 0: one value for all boxes, else 1
  void* dpred;        // backward: [n, 4]
  void* dtarget;      // backward: [n, 4] or null
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(box_iou_loss_forward, ck::cpu::BoxIouLossArgs)
CK_CPU_KERNEL(box_iou_loss_backward, ck::cpu::BoxIouLossArgs)

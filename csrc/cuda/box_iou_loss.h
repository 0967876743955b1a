// 1 - overlap of n pairs of boxes, each or in sum, and its gradients.  fp32, fp16 and bf16 boxes; everything else in fp32.
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include <cstdint>

#include "../math/box_iou_loss.h"
#include "../math/dtype.h"

namespace ck::cuda {
struct BoxPairs {
  Dtype dtype;
  const void* pred;    // [n, 4]: x1, y1, x2, y2; 16-byte aligned
  const void* target;  // the same
  int64_t n;
  Overlap kind;
  Reduction reduction;
};

// Floats of workspace that the forward pass needs.
int64_t box_iou_loss_workspace(int64_t n, Reduction reduction);
// loss: [n], or one value.
cudaError_t box_iou_loss_forward(const BoxPairs& boxes, float* loss, float* workspace, cudaStream_t s);
// grad: one value for all boxes (grad_step 0), or [n] (1).  dpred, dtarget: [n, 4], 16-byte aligned; dtarget may be null.
cudaError_t box_iou_loss_backward(const BoxPairs& boxes, const float* grad, int64_t grad_step, void* dpred,
                                  void* dtarget, cudaStream_t s);
}  // namespace ck::cuda
#endif

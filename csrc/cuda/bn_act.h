// Batch norm and activation on x = [N, C, S] in either layout; formulas as in csrc/cpu/bn_act.h.  fp32, fp16 and bf16.
//
// Per-channel arrays are fp32, weight, bias and residual may be null; data pointers are 16-byte aligned.  `workspace` holds
// bn_act_workspace(shape) floats.  Sums are taken in two stages, whose parts depend on the shape only: results repeat.
#pragma once
#if defined(CK_CUDA) || defined(CK_HOST_CUDA) || defined(__CUDACC__)
#include <cuda_runtime_api.h>

#include "../math/activation.h"
#include "../math/bn_shape.h"

namespace ck::cuda {

// Floats of workspace for the ops with sums over a channel.
int64_t bn_act_workspace(const BnShape& shape);

cudaError_t bn_act_forward(const BnShape& shape, const void* x, const float* scale, const float* shift,
                           const void* residual, void* y, Act act, double slope, cudaStream_t s);
cudaError_t bn_act_backward(const BnShape& shape, const void* grad, const void* x, const float* scale,
                            const float* shift, void* dx, float* dscale, float* dshift, float* workspace, Act act,
                            double slope, cudaStream_t s);
cudaError_t channel_stats(const BnShape& shape, const void* x, float* mean, float* var, float* workspace,
                          cudaStream_t s);
cudaError_t bn_act_train_forward(const BnShape& shape, const void* x, const float* weight, const float* bias,
                                 const void* residual, void* y, float* mean, float* var, float* workspace, double eps,
                                 Act act, double slope, cudaStream_t s);
// The second half of bn_act_train_forward: mean and var are known.
cudaError_t bn_act_normalise(const BnShape& shape, const void* x, const float* mean, const float* var,
                             const float* weight, const float* bias, const void* residual, void* y, double eps, Act act,
                             double slope, cudaStream_t s);
cudaError_t bn_act_train_backward(const BnShape& shape, const void* grad, const void* x, const float* mean,
                                  const float* var, const float* weight, const float* bias, void* dx, float* dweight,
                                  float* dbias, float* workspace, double eps, Act act, double slope, cudaStream_t s);

}  // namespace ck::cuda
#endif

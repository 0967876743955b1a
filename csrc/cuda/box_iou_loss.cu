#include "box_iou_loss.cuh"

namespace ck::cuda {

int64_t box_iou_loss_workspace(int64_t n, Reduction reduction) {
  return reduction == Reduction::none || loss_parts(n) == 1 ? 0 : loss_parts(n);
}

cudaError_t box_iou_loss_forward(const BoxPairs& b, float* loss, float* workspace, cudaStream_t s) {
  return with_cuda_dtype(b.dtype, [&](auto t) {
    using T = decltype(t);
    if (b.reduction == Reduction::none)
      return b.n == 0 ? cudaSuccess : launch_box_iou_loss<T, false>(b, loss, loss_blocks(b.n), s);
    const int64_t parts = loss_parts(b.n);
    float* const sums = parts == 1 ? loss : workspace;
    const cudaError_t e = launch_box_iou_loss<T, true>(b, sums, static_cast<unsigned>(parts), s);
    if (e != cudaSuccess || parts == 1) return e;
    return launch(box_iou_loss_total_kernel, dim3(1), dim3(kLossThreads), 0, s, sums, loss, parts);
  });
}

cudaError_t box_iou_loss_backward(const BoxPairs& b, const float* grad, int64_t grad_step, void* dpred, void* dtarget,
                                  cudaStream_t s) {
  if (b.n == 0) return cudaSuccess;
  return with_cuda_dtype(b.dtype, [&](auto t) {
    using T = decltype(t);
    return launch(box_iou_loss_backward_kernel<T>, dim3(loss_blocks(b.n)), dim3(kLossThreads), 0, s,
                  static_cast<const T*>(b.pred), static_cast<const T*>(b.target), grad, grad_step,
                  static_cast<T*>(dpred), static_cast<T*>(dtarget), b.n, b.kind, loss_scale(b));
  });
}

}  // namespace ck::cuda

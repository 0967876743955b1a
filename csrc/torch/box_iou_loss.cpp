#include "../cpu/box_iou_loss.h"

#include "../cuda/box_iou_loss.h"
#include "glue.h"

namespace ck::glue {
namespace {

using Gradients = std::tuple<Tensor, Tensor>;

void check(const Tensor& pred, const Tensor& target, int64_t kind, int64_t reduction) {
  STD_TORCH_CHECK(pred.dim() == 2 && pred.size(1) == 4 && pred.is_contiguous(), "box_iou_loss: boxes [N, 4] expected");
  check_same(target, pred);
  STD_TORCH_CHECK(kind >= 0 && kind <= static_cast<int64_t>(Overlap::ciou), "box_iou_loss: unknown kind");
  STD_TORCH_CHECK(reduction >= 0 && reduction <= static_cast<int64_t>(Reduction::sum),
                  "box_iou_loss: unknown reduction");
}

Tensor new_loss(const Tensor& pred, int64_t reduction) {
  const bool each = static_cast<Reduction>(reduction) == Reduction::none;
  return empty(pred, each ? std::vector<int64_t>{pred.size(0)} : std::vector<int64_t>{}, acc_type(pred));
}

// Without `both`, the second is empty.
Gradients new_gradients(const Tensor& pred, bool both) {
  const int64_t n = pred.size(0);
  return {empty(pred, {n, 4}, pred.scalar_type()), empty(pred, {both ? n : 0, 4}, pred.scalar_type())};
}

// Steps between the values of grad: [N], all of one value (stride 0) or one after the other, or a single value.
int64_t grad_step(const Tensor& grad, const Tensor& pred, int64_t reduction) {
  const bool each = static_cast<Reduction>(reduction) == Reduction::none;
  STD_TORCH_CHECK(grad.dim() == each && grad.scalar_type() == acc_type(pred), "box_iou_loss: unexpected grad");
  if (!each) return 0;
  const int64_t n = pred.size(0), step = n > 1 ? grad.stride(0) : 1;
  STD_TORCH_CHECK(grad.size(0) == n && (step == 0 || step == 1), "box_iou_loss: unexpected grad");
  return step;
}

cpu::BoxIouLossArgs cpu_args(const Tensor& pred, const Tensor& target, int64_t kind, int64_t reduction) {
  check(pred, target, kind, reduction);
  cpu::BoxIouLossArgs a = {};
  a.dtype = dtype_of(pred), a.pred = ptr(pred), a.target = ptr(target), a.n = pred.size(0), a.pool = torch_pool();
  a.kind = static_cast<Overlap>(kind), a.reduction = static_cast<Reduction>(reduction);
  return a;
}

[[maybe_unused]] Tensor box_iou_loss_cpu(const Tensor& pred, const Tensor& target, int64_t kind, int64_t reduction) {
  auto a = cpu_args(pred, target, kind, reduction);
  Tensor loss = new_loss(pred, reduction);
  a.loss = mut(loss);
  cpu::box_iou_loss_forward(a);
  return loss;
}

[[maybe_unused]] Gradients box_iou_loss_backward_cpu(const Tensor& grad, const Tensor& pred, const Tensor& target,
                                                     int64_t kind, int64_t reduction, bool both) {
  auto a = cpu_args(pred, target, kind, reduction);
  a.grad_step = grad_step(grad, pred, reduction), a.grad = ptr(grad);
  Gradients out = new_gradients(pred, both);
  a.dpred = mut(std::get<0>(out)), a.dtarget = both ? mut(std::get<1>(out)) : nullptr;
  cpu::box_iou_loss_backward(a);
  return out;
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
cuda::BoxPairs cuda_pairs(const Tensor& pred, const Tensor& target, int64_t kind, int64_t reduction) {
  check(pred, target, kind, reduction);
  return {dtype_of(pred),
          ptr(pred),
          ptr(target),
          pred.size(0),
          static_cast<Overlap>(kind),
          static_cast<Reduction>(reduction)};
}

Tensor box_iou_loss_cuda(const Tensor& pred, const Tensor& target, int64_t kind, int64_t reduction) {
  const auto pairs = cuda_pairs(pred, target, kind, reduction);
  Tensor loss = new_loss(pred, reduction);
  const Tensor sums = empty(pred, {cuda::box_iou_loss_workspace(pairs.n, pairs.reduction)}, ScalarType::Float);
  const CudaCall call(pred);
  check_launch(cuda::box_iou_loss_forward(pairs, mut<float>(loss), mut<float>(sums), call.stream), "box_iou_loss");
  return loss;
}

Gradients box_iou_loss_backward_cuda(const Tensor& grad, const Tensor& pred, const Tensor& target, int64_t kind,
                                     int64_t reduction, bool both) {
  const auto pairs = cuda_pairs(pred, target, kind, reduction);
  const int64_t step = grad_step(grad, pred, reduction);
  Gradients out = new_gradients(pred, both);
  void* const dtarget = both ? mut(std::get<1>(out)) : nullptr;
  const CudaCall call(pred);
  check_launch(cuda::box_iou_loss_backward(pairs, ptr<float>(grad), step, mut(std::get<0>(out)), dtarget, call.stream),
               "box_iou_loss_backward");
  return out;
}
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def("box_iou_loss(Tensor pred, Tensor target, int kind, int reduction) -> Tensor");
  m.def(
      "box_iou_loss_backward(Tensor grad, Tensor pred, Tensor target, int kind, int reduction, bool both)"
      " -> (Tensor, Tensor)");
}
CK_CPU_IMPL(m) {
  cpu_kernel<&box_iou_loss_cpu>(m, "box_iou_loss");
  cpu_kernel<&box_iou_loss_backward_cpu>(m, "box_iou_loss_backward");
}
#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) {
  cuda_kernel<&box_iou_loss_cuda>(m, "box_iou_loss");
  cuda_kernel<&box_iou_loss_backward_cuda>(m, "box_iou_loss_backward");
}
#endif

}  // namespace ck::glue

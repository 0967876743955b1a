#include "../cpu/nms.h"

#include "../cuda/nms.h"
#include "glue.h"

namespace ck::glue {
namespace {

struct Shape {
  int64_t images, n;
};

Shape check(const Tensor& boxes, const Tensor& scores, const std::optional<Tensor>& segments, int64_t kind,
            int64_t max_out) {
  STD_TORCH_CHECK(boxes.dim() == 3 && boxes.size(2) == 4 && boxes.is_contiguous(), "nms_padded: boxes [B, N, 4]");
  const Shape s = {boxes.size(0), boxes.size(1)};
  STD_TORCH_CHECK(
      scores.numel() == s.images * s.n && scores.is_contiguous() && scores.scalar_type() == boxes.scalar_type(),
      "nms_padded: scores must match boxes");
  STD_TORCH_CHECK(!segments || (segments->numel() == s.images * s.n && segments->is_contiguous() &&
                                segments->scalar_type() == ScalarType::Long),
                  "nms_padded: segments must match boxes");
  STD_TORCH_CHECK(kind >= 0 && kind <= static_cast<int64_t>(Overlap::ciou) && max_out >= 0,
                  "nms_padded: kind, max_out");
  STD_TORCH_CHECK(s.n < (int64_t(1) << 31) - 64, "nms_padded: fewer than 2^31 - 64 boxes per image, got ", s.n);
  return s;
}

[[maybe_unused]] std::tuple<Tensor, Tensor> nms_padded_cpu(const Tensor& boxes, const Tensor& scores,
                                                           const std::optional<Tensor>& segments, double threshold,
                                                           int64_t kind, double beta, int64_t max_out) {
  const auto [images, n] = check(boxes, scores, segments, kind, max_out);
  Tensor indices = empty(boxes, {images, max_out}, ScalarType::Long), count = empty(boxes, {images}, ScalarType::Long);
  cpu::nms({dtype_of(boxes), ptr(boxes), ptr(scores), ptr<int64_t>(segments), images, n, threshold,
            static_cast<Overlap>(kind), beta, max_out, mut<int64_t>(indices), mut<int64_t>(count), torch_pool()});
  return {indices, count};
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
// torch.sort(t, dim=-1, stable=True): values and int64 indices.
std::tuple<Tensor, Tensor> sort_rows(const Tensor& t, bool descending) {
  std::array<StableIValue, 4> stack{torch::stable::detail::from(t),
                                    torch::stable::detail::from(std::optional<bool>(true)),
                                    torch::stable::detail::from(int64_t(-1)), torch::stable::detail::from(descending)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

std::tuple<Tensor, Tensor> nms_padded_cuda(const Tensor& boxes, const Tensor& scores,
                                           const std::optional<Tensor>& segments, double threshold, int64_t kind,
                                           double beta, int64_t max_out) {
  constexpr int64_t kMaskBytes = int64_t(32)
                                 << 20;  // fits the L2 cache of the GPUs this is for; two bands at 20,000 boxes
  const auto [images, n] = check(boxes, scores, segments, kind, max_out);
  const CudaCall call(boxes);
  const cuda::NmsProblem p = {dtype_of(boxes),
                              ptr(boxes),
                              ptr(scores),
                              ptr<int64_t>(segments),
                              images,
                              n,
                              static_cast<float>(threshold),
                              static_cast<Overlap>(kind),
                              beta,
                              max_out};
  Tensor indices = empty(boxes, {images, max_out}, ScalarType::Long), count = empty(boxes, {images}, ScalarType::Long);
  Tensor keys = empty(boxes, {images, n}, ScalarType::Float);
  check_launch(cuda::nms_keys(p, mut<float>(keys), call.stream), "nms_padded");
  const Tensor by_score = std::get<1>(sort_rows(keys, true));
  std::optional<Tensor> sorted_ids, by_segment;
  if (segments) {
    Tensor ids = empty(boxes, {images, n}, ScalarType::Long);
    check_launch(cuda::nms_segment_ids(p, ptr<int64_t>(by_score), mut<int64_t>(ids), call.stream), "nms_padded");
    std::tie(sorted_ids, by_segment) = sort_rows(ids, false);
  }
  const int64_t words = cuda::nms_words(n), band = cuda::nms_band(images, n, kMaskBytes);
  Tensor sorted = empty(boxes, {images, n, 4}, ScalarType::Float), ends = empty(boxes, {images, n}, ScalarType::Int);
  std::optional<Tensor> angles;
  if (p.kind == Overlap::ciou) angles = empty(boxes, {images, n}, ScalarType::Float);
  Tensor removed = empty(boxes, {images, words}, ScalarType::Long),
         kept = empty(boxes, {images, words}, ScalarType::Long);
  Tensor mask = empty(boxes, {images, 64 * band, words}, ScalarType::Long);
  const cuda::NmsWork w = {ptr<int64_t>(by_score),
                           ptr<int64_t>(sorted_ids),
                           ptr<int64_t>(by_segment),
                           mut<float4>(sorted),
                           angles ? mut<float>(*angles) : nullptr,
                           mut<int32_t>(ends),
                           mut<uint64_t>(removed),
                           mut<uint64_t>(kept),
                           mut<uint64_t>(mask),
                           band};
  check_launch(cuda::nms_select(p, w, mut<int64_t>(indices), mut<int64_t>(count), call.stream), "nms_padded");
  return {indices, count};
}
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def(
      "nms_padded(Tensor boxes, Tensor scores, Tensor? segments, float threshold, int kind, float beta, int max_out)"
      " -> (Tensor, Tensor)");
}
CK_CPU_IMPL(m) { cpu_kernel<&nms_padded_cpu>(m, "nms_padded"); }
#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) { cuda_kernel<&nms_padded_cuda>(m, "nms_padded"); }
#endif

}  // namespace ck::glue

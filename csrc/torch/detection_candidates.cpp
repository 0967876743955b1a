#include "../cpu/detection_candidates.h"

#include "glue.h"

namespace ck::glue {
namespace {

[[maybe_unused]] std::tuple<Tensor, Tensor, Tensor> detection_candidates_cpu(const Tensor& predictions,
                                                                             double threshold, int64_t most,
                                                                             bool multi_label) {
  STD_TORCH_CHECK(
      predictions.dim() == 3 && predictions.size(2) > 5 && predictions.is_contiguous() && most >= 0 && threshold >= 0,
      "detection_candidates: predictions [N, A, 5 + classes], most and threshold from 0 up");
  const int64_t images = predictions.size(0);
  Tensor boxes = empty(predictions, {images, most, 4}, acc_type(predictions)),
         scores = empty(predictions, {images, most}, acc_type(predictions)),
         labels = empty(predictions, {images, most}, ScalarType::Long);
  cpu::detection_candidates({dtype_of(predictions), ptr(predictions), images, predictions.size(1),
                             predictions.size(2) - 5, threshold, most, multi_label, mut(boxes), mut(scores),
                             mut<int64_t>(labels), torch_pool()});
  return {boxes, scores, labels};
}

}  // namespace

CK_NATIVE_OPS(m) {
  m.def(
      "detection_candidates(Tensor predictions, float threshold, int most, bool multi_label) -> (Tensor, Tensor, "
      "Tensor)");
}
CK_CPU_IMPL(m) { cpu_kernel<&detection_candidates_cpu>(m, "detection_candidates"); }

}  // namespace ck::glue

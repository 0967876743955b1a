// Candidates, NMS and what is kept of them, for the batch of a detector's predictions: one call where the three ops and what
// lies between them are a dozen, which at one image take as long as the kernels.
#include <limits>

#include "../cpu/detection_candidates.h"
#include "../cpu/nms.h"
#include "glue.h"

namespace ck::glue {
namespace {

// Of float32 predictions; iou_threshold: a float.  Returns boxes, scores, labels (zeros, 0 and -1 behind the last), count.
[[maybe_unused]] std::tuple<Tensor, Tensor, Tensor, Tensor> postprocess_cpu(const Tensor& predictions,
                                                                            double score_threshold, int64_t most,
                                                                            bool multi_label, double iou_threshold,
                                                                            int64_t kind, double beta,
                                                                            bool class_agnostic, int64_t max_out) {
  STD_TORCH_CHECK(predictions.dim() == 3 && predictions.size(2) > 5 && predictions.is_contiguous() &&
                      predictions.scalar_type() == ScalarType::Float,
                  "postprocess: float32 predictions [N, A, 5 + classes]");
  STD_TORCH_CHECK(score_threshold >= 0 && std::isfinite(score_threshold) && !std::isnan(iou_threshold) && beta > 0 &&
                      std::isfinite(beta) && kind >= 0 && kind <= static_cast<int64_t>(Overlap::ciou) && max_out >= 0 &&
                      most >= 0 && most < (int64_t(1) << 31) - 64,
                  "postprocess: a number out of range");
  const int64_t images = predictions.size(0);
  const auto floats = [&](int64_t n) { return empty(predictions, {images, n}, ScalarType::Float); };
  const auto integers = [&](int64_t n) { return empty(predictions, {images, n}, ScalarType::Long); };
  Tensor candidate_boxes = floats(4 * most), candidate_scores = floats(most), candidate_labels = integers(most);
  float *const from_box = mut<float>(candidate_boxes), *const from_score = mut<float>(candidate_scores);
  int64_t* const from_label = mut<int64_t>(candidate_labels);
  cpu::detection_candidates({Dtype::f32, ptr(predictions), images, predictions.size(1), predictions.size(2) - 5,
                             score_threshold, most, multi_label, from_box, from_score, from_label, torch_pool()});
  for (int64_t i = 0; i < images * most; ++i)
    if (from_label[i] < 0) from_score[i] = std::numeric_limits<float>::quiet_NaN();  // padding is never kept
  Tensor indices = integers(max_out), count = empty(predictions, {images}, ScalarType::Long);
  cpu::nms({Dtype::f32, from_box, from_score, class_agnostic ? nullptr : from_label, images, most, iou_threshold,
            static_cast<Overlap>(kind), beta, max_out, mut<int64_t>(indices), mut<int64_t>(count), torch_pool()});
  Tensor boxes = empty(predictions, {images, max_out, 4}, ScalarType::Float), scores = floats(max_out),
         labels = integers(max_out);
  float *box = mut<float>(boxes), *score = mut<float>(scores);
  int64_t* label = mut<int64_t>(labels);
  const int64_t* index = ptr<int64_t>(indices);
  for (int64_t i = 0; i < images; ++i) {
    for (int64_t j = 0; j < max_out; ++j, box += 4) {
      const bool kept = *index >= 0;
      const int64_t from = i * most + *index++;
      for (int c = 0; c < 4; ++c) box[c] = kept ? from_box[4 * from + c] : 0.f;
      *score++ = kept ? from_score[from] : 0.f;
      *label++ = kept ? from_label[from] : -1;
    }
  }
  return {boxes, scores, labels, count};
}

}  // namespace

CK_NATIVE_OPS(m) {
  m.def(
      "postprocess(Tensor predictions, float score_threshold, int most, bool multi_label, float iou_threshold, int "
      "kind, float beta, bool class_agnostic, int max_out) -> (Tensor, Tensor, Tensor, Tensor)");
}
CK_CPU_IMPL(m) { cpu_kernel<&postprocess_cpu>(m, "postprocess"); }

}  // namespace ck::glue

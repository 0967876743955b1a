#include "../../csrc/cpu/detection_candidates.h"

#include <vector>

#include "drive.h"

using namespace drive;

namespace {

struct Found {
  double score;
  int64_t row, label;
};

// The definition, one row after the other.
std::vector<Found> expected(const Buffer<float>& p, int64_t image, int64_t rows, int64_t classes, double threshold,
                            int64_t most, bool multi_label) {
  std::vector<Found> found;
  for (int64_t r = 0; r < rows; ++r) {
    const float* row = p.data() + (image * rows + r) * (5 + classes);
    if (!(row[4] > threshold)) continue;
    const int64_t best = std::max_element(row + 5, row + 5 + classes) - (row + 5);
    for (int64_t c = multi_label ? 0 : best; c < (multi_label ? classes : best + 1); ++c)
      if (row[4] * row[5 + c] > threshold) found.push_back({row[4] * row[5 + c], r, c});
  }
  std::stable_sort(found.begin(), found.end(), [](const Found& a, const Found& b) { return a.score > b.score; });
  if (static_cast<int64_t>(found.size()) > most) found.resize(most);
  std::stable_sort(found.begin(), found.end(),
                   [](const Found& a, const Found& b) { return a.row != b.row ? a.row < b.row : a.label < b.label; });
  return found;
}

void run(int64_t images, int64_t rows, int64_t classes, int64_t most, bool multi_label, ck::cpu::Pool pool) {
  const double threshold = 0.25;
  Buffer<float> p(images * rows * (5 + classes));
  std::mt19937 g(static_cast<unsigned>(rows + classes));
  for (int64_t i = 0; i < p.n; ++i) p[i] = static_cast<float>(g() % 9) / 8;  // exact products, many ties
  for_each_isa([&] {
    Buffer<float> boxes(images * most * 4), scores(images * most);
    Buffer<int64_t> labels(images * most);
    ck::cpu::detection_candidates({ck::Dtype::f32, p.data(), images, rows, classes, threshold, most, multi_label,
                                   boxes.data(), scores.data(), labels.data(), pool});
    for (int64_t i = 0; i < images; ++i) {
      const auto want = expected(p, i, rows, classes, threshold, most, multi_label);
      bool same = true;
      for (int64_t j = 0; j < most; ++j) {
        const int64_t at = i * most + j;
        const bool one = j < static_cast<int64_t>(want.size());
        same &= scores[at] == (one ? static_cast<float>(want[j].score) : -1.f);
        same &= labels[at] == (one ? want[j].label : -1);
        const float* row = one ? p.data() + (i * rows + want[j].row) * (5 + classes) : nullptr;
        for (int k = 0; k < 4; ++k)
          same &= boxes[4 * at + k] == (one ? row[k % 2] + (k < 2 ? -1 : 1) * row[2 + k % 2] / 2 : 0.f);
      }
      expect("detection_candidates", same);
    }
  });
}

}  // namespace

DRIVE(detection_candidates) {
  for (const auto& pool : {ck::cpu::serial_pool(), pool_of<3>()})
    for (const int64_t rows : {0, 1, 40, 5000})
      for (const int64_t classes : {1, 3, 80})
        for (const int64_t most : {0, 7, 300})
          for (const bool multi_label : {false, true}) run(2, rows, classes, most, multi_label, pool);
}

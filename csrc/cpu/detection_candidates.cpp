// A row's objectness decides first: of the 25,200 rows of a YOLO picture a few hundred pass, so that one cache line of a
// row is read where its classes fill five.  Ranges of rows are searched by different threads, into lists of their own; the
// lists joined are in the order of the rows, whatever the number of threads.
// Compiled with -ffp-contract=off (CMakeLists.txt): boxes and scores are rounded as the definition rounds them.
#include "detection_candidates.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kAhead = 24;    // rows whose objectness is asked for early
constexpr int64_t kRange = 2048;  // rows of a task: 10 us where nothing passes

template <class S> struct Candidate {
  S score;
  int32_t label;
  int64_t row;
};

template <class T> struct Search {
  using S = std::conditional_t<std::is_same_v<T, double>, double, float>;
  using List = std::vector<Candidate<S>>;
  const DetectionCandidatesArgs& a;
  const int64_t width = 5 + a.classes;

  const T* row(int64_t image, int64_t r) const {
    return static_cast<const T*>(a.predictions) + (image * a.rows + r) * width;
  }

  // score > threshold, as the definition compares: in double.
  bool passes(S score) const { return static_cast<double>(score) > a.threshold; }

  void find(int64_t image, int64_t begin, int64_t end, List& found) const {
    for (int64_t r = begin; r < end; ++r) {
      const T* const p = row(image, r);
      __builtin_prefetch(p + kAhead * width +
                         4);  // a page holds a dozen rows, too few for the processor to see the stride
      const S objectness = load(p[4]);
      if (!passes(objectness)) continue;
      if (a.multi_label) {
        for (int64_t c = 0; c < a.classes; ++c) {
          const S score = objectness * load(p[5 + c]);
          if (passes(score)) found.push_back({score, static_cast<int32_t>(c), r});
        }
        continue;
      }
      S best = load(p[5]);
      int64_t label = 0;
      for (int64_t c = 1; c < a.classes && best == best; ++c) {  // a NaN stays, and does not pass
        const S s = load(p[5 + c]);
        if (!(s <= best)) best = s, label = c;
      }
      const S score = objectness * best;
      if (passes(score)) found.push_back({score, static_cast<int32_t>(label), r});
    }
  }

  // The highest scores, of equal ones the first, in the order in which they came.
  void keep_most(List& found) const {
    if (static_cast<int64_t>(found.size()) <= a.most) return;
    const auto earlier = [](const auto& x, const auto& y) {
      return x.row != y.row ? x.row < y.row : x.label < y.label;
    };
    std::nth_element(found.begin(), found.begin() + a.most, found.end(), [&](const auto& x, const auto& y) {
      return x.score != y.score ? x.score > y.score : earlier(x, y);
    });
    found.resize(a.most);
    std::sort(found.begin(), found.end(), earlier);
  }

  void write(int64_t image, const List& found) const {
    S* box = static_cast<S*>(a.boxes) + image * a.most * 4;
    S* score = static_cast<S*>(a.scores) + image * a.most;
    int64_t* label = a.labels + image * a.most;
    for (const auto& f : found) {
      const T* const p = row(image, f.row);
      const S cx = load(p[0]), cy = load(p[1]), w = load(p[2]) / 2, h = load(p[3]) / 2;
      box[0] = cx - w, box[1] = cy - h, box[2] = cx + w, box[3] = cy + h;
      box += 4;
      *score++ = f.score;
      *label++ = f.label;
    }
    const int64_t left = a.most - static_cast<int64_t>(found.size());
    std::fill_n(box, 4 * left, S(0));
    std::fill_n(score, left, S(-1));
    std::fill_n(label, left, int64_t(-1));
  }

  void run() const {
    const int64_t ranges = (a.rows + kRange - 1) / kRange;
    std::vector<List> lists(a.images * ranges);
    parallel(a.pool, a.images * ranges, 1, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) {
        const int64_t begin = i % ranges * kRange;
        find(i / ranges, begin, std::min(begin + kRange, a.rows), lists[i]);
      }
    });
    parallel(a.pool, a.images, 1, [&](int64_t b, int64_t e) {
      for (int64_t image = b; image < e; ++image) {
        List all;
        for (int64_t i = image * ranges; i < (image + 1) * ranges; ++i)
          all.insert(all.end(), lists[i].begin(), lists[i].end());
        keep_most(all);
        write(image, all);
      }
    });
  }

 private:
  static S load(T x) {
    if constexpr (std::is_same_v<T, double>) return x;
    else return to_float(x);
  }
};

}  // namespace

void detection_candidates(const DetectionCandidatesArgs& a) {
  switch (a.dtype) {
    case Dtype::f32: return Search<float>{a}.run();
    case Dtype::f64: return Search<double>{a}.run();
    case Dtype::f16: return Search<Half>{a}.run();
    case Dtype::bf16: return Search<BFloat16>{a}.run();
  }
}

}  // namespace ck::cpu::CK_ISA

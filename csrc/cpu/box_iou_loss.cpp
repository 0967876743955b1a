// IoU losses of matched boxes.  A vector of boxes is four loads and four shuffles; the rest is arithmetic on whole vectors,
// about 60 operations a pair forward and twice that backward.
//
// Sums are over parts of fixed size, joined in order and in double: the same bits for any number of threads.
// Compiled with -ffp-contract=off (CMakeLists.txt): iou <= 1, without which ciou could divide by 0, holds only where the
// intersection is rounded before it is subtracted.
#include "box_iou_loss.h"

#include <algorithm>
#include <vector>

#include "simd.h"

namespace ck::cpu::CK_ISA {

CK_INLINE F32 m_angle(F32 w, F32 h) { return angle_polynomial(w, h); }
CK_INLINE F64 m_angle(F64 w, F64 h) { return std::atan2(w.v, h.v); }

namespace {

constexpr int64_t kPart = 2048;  // boxes
constexpr int64_t kGrain = 8;    // parts per task: 60 us; a second thread gains nothing on what a training step has

// corners[k] = coordinate k of the `n` boxes at p; zeros beyond them.
template <class T>
CK_INLINE void load_corners(const T* p, int n, V<T> (&corners)[4]) {
  constexpr int N = V<T>::N;
  for (int k = 0; k < 4; ++k)
    corners[k] = n == N ? vload(p + k * N) : vload_n(p + k * N, std::clamp(4 * n - k * N, 0, N));
  if constexpr (N > 1) {
    split_pairs(corners[0], corners[1]);  // x1, x2, x1, x2 ... and y1, y2 ... of the first half
    split_pairs(corners[2], corners[3]);
    split_pairs(corners[0], corners[2]);
    split_pairs(corners[1], corners[3]);
  }
}

template <class T>
CK_INLINE void store_corners(T* p, int n, V<T> (&corners)[4]) {
  constexpr int N = V<T>::N;
  if constexpr (N > 1) {
    merge_pairs(corners[0], corners[2]);
    merge_pairs(corners[1], corners[3]);
    merge_pairs(corners[0], corners[1]);
    merge_pairs(corners[2], corners[3]);
  }
  for (int k = 0; k < 4; ++k) {
    if (n == N) store(p + k * N, corners[k]);
    else store_n(p + k * N, corners[k], std::clamp(4 * n - k * N, 0, N));
  }
}

template <class T>
CK_INLINE Box<V<T>> load_box(Overlap kind, const void* boxes, int64_t i, int n) {
  V<T> c[4];
  load_corners(static_cast<const T*>(boxes) + 4 * i, n, c);
  return loss_box(kind, c[0], c[1], c[2], c[3]);
}

// f(part, index of a box, how many from there) for a vector of boxes at a time.
template <class T, class F>
CK_INLINE void for_boxes(const BoxIouLossArgs& a, F&& f) {
  constexpr int N = V<T>::N;
  parallel(a.pool, (a.n + kPart - 1) / kPart, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      const int64_t last = std::min(a.n, (part + 1) * kPart);
      for (int64_t i = part * kPart; i < last; i += N) f(part, i, static_cast<int>(std::min<int64_t>(N, last - i)));
    }
  });
}

double share(const BoxIouLossArgs& a) {  // of a box in the result
  return a.reduction == Reduction::mean ? 1.0 / static_cast<double>(std::max<int64_t>(a.n, 1)) : 1.0;
}

}  // namespace

void box_iou_loss_forward(const BoxIouLossArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    A* const out = static_cast<A*>(a.loss);
    const auto loss = [&](int64_t i, int n) __attribute__((always_inline)) {
      return box_iou_loss(a.kind, load_box<T>(a.kind, a.pred, i, n), load_box<T>(a.kind, a.target, i, n));
    };
    if (a.reduction == Reduction::none) {
      for_boxes<T>(a,
                   [&](int64_t, int64_t i, int n) __attribute__((always_inline)) { store_n(out + i, loss(i, n), n); });
      return;
    }
    std::vector<double> sums((a.n + kPart - 1) / kPart);
    for_boxes<T>(a, [&](int64_t part, int64_t i, int n) __attribute__((always_inline)) {
      sums[part] += static_cast<double>(sum(keep_n(loss(i, n), n)));
    });
    double total = 0;
    for (const double s : sums) total += s;
    *out = static_cast<A>(total * share(a));
  });
}

void box_iou_loss_backward(const BoxIouLossArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    using A = Acc<T>;
    const A* const grad = static_cast<const A*>(a.grad);
    const V<T> scale(static_cast<A>(share(a)));
    for_boxes<T>(a, [&](int64_t, int64_t i, int n) __attribute__((always_inline)) {
      const auto pred = load_box<T>(a.kind, a.pred, i, n), target = load_box<T>(a.kind, a.target, i, n);
      V<T> g(grad[0]), dpred[4], dtarget[4];
      if (a.grad_step) load_n(g, grad + i, n);
      box_iou_loss_gradient(a.kind, pred, target, g * scale, dpred, dtarget);
      store_corners(static_cast<T*>(a.dpred) + 4 * i, n, dpred);
      if (a.dtarget) store_corners(static_cast<T*>(a.dtarget) + 4 * i, n, dtarget);
    });
  });
}

}  // namespace ck::cpu::CK_ISA

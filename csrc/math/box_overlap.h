// How much two boxes overlap: IoU and its generalised, distance and complete forms.
//
//   iou  = |A n B| / |A u B|                                          0 if the union is empty
//   giou = iou - (|C| - |A u B|) / |C|                                C: the smallest box around both (arXiv:1902.09630)
//   diou = iou - (rho^2 / c^2)^beta                                   rho: distance of the centres, c: diagonal of C; 0 if c = 0
//   ciou = diou - v^2 / (1 - iou + v)                                 v = (4 / pi^2) (atan2(wa, ha) - atan2(wb, hb))^2
//
// NMS compares these with a threshold, and every backend must take the same decision.  So the sequence of roundings is
// part of the definition: each operation below is rounded on its own (no fused multiply-add: *_rn on a GPU,
// -ffp-contract=off on the CPU, one tensor operation each in cnnkernels/_boxes.py), and the two transcendental functions
// are evaluated in double and rounded to T once, which hides the last bits in which libraries differ.
// A width or height below 0 counts as 0, and so does what is not a number after an overflow (m_max(x, 0) and ratio).
// All penalties are >= 0, so giou, diou and ciou never exceed iou, in floating point too; the CPU kernel relies on it.
#pragma once
#include "activation.h"

namespace ck {

// The numbering is shared with cnnkernels/_boxes.py; a test compares the two.
enum class Overlap : int { iou = 0, giou = 1, diou = 2, ciou = 3 };

template <class V> CK_HD V add_rn(V a, V b) { return a + b; }
template <class V> CK_HD V sub_rn(V a, V b) { return a - b; }
template <class V> CK_HD V mul_rn(V a, V b) { return a * b; }
template <class V> CK_HD V div_rn(V a, V b) { return a / b; }
#if defined(__CUDACC__)
CK_HD float add_rn(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}
CK_HD float sub_rn(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fsub_rn(a, b);
#else
  return a - b;
#endif
}
CK_HD float mul_rn(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
CK_HD float div_rn(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}
#endif

constexpr double kAspectScale = 0.40528473456935109;  // 4 / pi^2

// Corners, and what is computed once per box.  V: float, double or a SIMD vector.
template <class V>
struct Box {
  V x1, y1, x2, y2;
  V area;   // box_area
  V angle;  // box_angle; only ciou uses it
};

template <class V>
CK_HD V box_area(V x1, V y1, V x2, V y2) {
  return mul_rn(m_max(sub_rn(x2, x1), V(0)), m_max(sub_rn(y2, y1), V(0)));
}

// atan(width / height), defined for empty boxes too.
template <class T>
CK_HD T box_angle(T x1, T y1, T x2, T y2) {
  return static_cast<T>(
      ::atan2(static_cast<double>(m_max(sub_rn(x2, x1), T(0))), static_cast<double>(m_max(sub_rn(y2, y1), T(0)))));
}

// Of the intervals [a1, a2] and [b1, b2]: the length that they share, and the length from the first end to the last.
template <class V>
CK_HD V shared_length(V a1, V a2, V b1, V b2) {
  return m_max(sub_rn(m_min(a2, b2), m_max(a1, b1)), V(0));
}
template <class V>
CK_HD V spanned_length(V a1, V a2, V b1, V b2) {
  return m_max(sub_rn(m_max(a2, b2), m_min(a1, b1)), V(0));
}

template <class V>
CK_HD V intersection(const Box<V>& a, const Box<V>& b) {
  return mul_rn(shared_length(a.x1, a.x2, b.x1, b.x2), shared_length(a.y1, a.y2, b.y1, b.y2));
}

template <class V>
CK_HD V union_area(const Box<V>& a, const Box<V>& b, V inter) {
  return sub_rn(add_rn(a.area, b.area), inter);
}

CK_HD float power(float x, double e) { return static_cast<float>(::pow(static_cast<double>(x), e)); }
CK_HD double power(double x, double e) { return ::pow(x, e); }

// a / b where b > 0, else 0
template <class V>
CK_HD V ratio(V a, V b) {
  return m_where_lt(V(0), b, div_rn(a, b), V(0));
}

// POWER: whether beta differs from 1; vectors have no power().
template <bool POWER, class V>
CK_HD V overlap(Overlap kind, const Box<V>& a, const Box<V>& b, [[maybe_unused]] double beta) {
  const V zero(0), inter = intersection(a, b), uni = union_area(a, b, inter);
  const V iou = ratio(inter, uni);
  if (kind == Overlap::iou) return iou;
  const V cw = spanned_length(a.x1, a.x2, b.x1, b.x2), ch = spanned_length(a.y1, a.y2, b.y1, b.y2);
  if (kind == Overlap::giou) {
    const V around = mul_rn(cw, ch);
    return sub_rn(iou, ratio(m_max(sub_rn(around, uni), zero), around));
  }
  const V dx = sub_rn(add_rn(a.x1, a.x2), add_rn(b.x1, b.x2)), dy = sub_rn(add_rn(a.y1, a.y2), add_rn(b.y1, b.y2));
  const V rho2 = mul_rn(add_rn(mul_rn(dx, dx), mul_rn(dy, dy)), V(0.25f));
  V distance = ratio(rho2, add_rn(mul_rn(cw, cw), mul_rn(ch, ch)));
  if constexpr (POWER) distance = power(distance, beta);
  const V diou = sub_rn(iou, distance);
  if (kind == Overlap::diou) return diou;
  const V turn = sub_rn(a.angle, b.angle);
  const V v = mul_rn(mul_rn(turn, turn), V(kAspectScale));
  return sub_rn(diou, m_where_lt(zero, v, div_rn(mul_rn(v, v), add_rn(sub_rn(V(1), iou), v)), zero));
}

}  // namespace ck

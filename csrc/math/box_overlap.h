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
// A width or height below 0 counts as 0, and so does what is not a number after an overflow (m_max(x, 0), x > 0 ? ...).
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

// Corners, and what is computed once per box.  V: float, double or (no angle needed) a SIMD vector.
template <class V>
struct Box {
  V x1, y1, x2, y2;
  V area;   // box_area
  V angle;  // box_angle; read by ciou only
};

template <class V>
CK_HD V box_area(V x1, V y1, V x2, V y2) {
  return mul_rn(m_max(sub_rn(x2, x1), V(0)), m_max(sub_rn(y2, y1), V(0)));
}

// atan(width / height), defined for empty boxes too.
template <class T>
CK_HD T box_angle(T x1, T y1, T x2, T y2) {
  return static_cast<T>(::atan2(static_cast<double>(m_max(sub_rn(x2, x1), T(0))), static_cast<double>(m_max(sub_rn(y2, y1), T(0)))));
}

template <class V>
CK_HD V intersection(const Box<V>& a, const Box<V>& b) {
  const V w = m_max(sub_rn(m_min(a.x2, b.x2), m_max(a.x1, b.x1)), V(0));
  const V h = m_max(sub_rn(m_min(a.y2, b.y2), m_max(a.y1, b.y1)), V(0));
  return mul_rn(w, h);
}

template <class V>
CK_HD V union_area(const Box<V>& a, const Box<V>& b, V inter) {
  return sub_rn(add_rn(a.area, b.area), inter);
}

template <class T>
CK_HD T overlap(Overlap kind, const Box<T>& a, const Box<T>& b, double beta) {
  const T zero(0), inter = intersection(a, b), uni = union_area(a, b, inter);
  const T iou = uni > zero ? div_rn(inter, uni) : zero;
  if (kind == Overlap::iou) return iou;
  const T cw = m_max(sub_rn(m_max(a.x2, b.x2), m_min(a.x1, b.x1)), zero);
  const T ch = m_max(sub_rn(m_max(a.y2, b.y2), m_min(a.y1, b.y1)), zero);
  if (kind == Overlap::giou) {
    const T around = mul_rn(cw, ch);
    return around > zero ? sub_rn(iou, div_rn(m_max(sub_rn(around, uni), zero), around)) : iou;
  }
  const T dx = sub_rn(add_rn(a.x1, a.x2), add_rn(b.x1, b.x2)), dy = sub_rn(add_rn(a.y1, a.y2), add_rn(b.y1, b.y2));
  const T rho2 = mul_rn(add_rn(mul_rn(dx, dx), mul_rn(dy, dy)), T(0.25));
  const T c2 = add_rn(mul_rn(cw, cw), mul_rn(ch, ch));
  T distance = c2 > zero ? div_rn(rho2, c2) : zero;
  if (beta != 1.0) distance = static_cast<T>(::pow(static_cast<double>(distance), beta));
  const T diou = sub_rn(iou, distance);
  if (kind == Overlap::diou) return diou;
  const T turn = sub_rn(a.angle, b.angle);
  const T v = mul_rn(mul_rn(turn, turn), T(0.40528473456935109));  // 4 / pi^2
  return v > zero ? sub_rn(diou, div_rn(mul_rn(v, v), add_rn(sub_rn(T(1), iou), v))) : diou;
}

}  // namespace ck

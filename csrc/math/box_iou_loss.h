// The losses 1 - overlap of matched boxes, and their gradients.  The overlaps are those of box_overlap.h.
//
// The gradient is that of the formula as PyTorch differentiates it: at a tie of min or max each side has half, a length
// that is 0 has none, and ciou's weight alpha = v / (1 - iou + v) is a constant (arXiv:1911.08287).  A denominator below
// 1e-30 counts as 0, here too where the overlap itself would divide by it: gradients of boxes of any size stay finite.
// A row with a coordinate that is NaN or infinite is NaN in loss and gradients.
#pragma once
#include "box_overlap.h"

namespace ck {

// The numbering is shared with cnnkernels/ops/box_iou_loss.py; a test compares the two.
enum class Reduction : int { none = 0, mean = 1, sum = 2 };

// atan(w / h) for w, h >= 0, and 0 for 0 / 0; in float within 2 units in the last place.
// q is the smaller over the larger, t, or where that is above tan(1/2) its distance from 1: atan t = pi/4 + atan((t-1) / (t+1)).
// So what is added to pi/4 leaves more than 1/2, and rounds no finer than pi/4 itself.  Coefficients of the least relative
// error, 1.4e-8.
template <class V>
CK_HD V angle_polynomial(V w, V h) {
  const V lo = m_min(w, h), hi = m_max(w, h), bound = hi * V(0.5463024898f);
  const V q = ratio(m_where_lt(bound, lo, lo - hi, lo), m_where_lt(bound, lo, lo + hi, hi)), z = q * q;
  V p = (V(-0.04641224f) * z + V(0.0986534f)) * z - V(0.14114709f);
  p = (p * z + V(0.1998943f)) * z - V(0.33333117f);
  const V a = m_where_lt(bound, lo, V(0.78539816339744831f), V(0.f)) + (p * (z * q) + q);
  return m_where_lt(h, w, V(1.57079632679489662f) - a, a);
}
// Vectors bring an m_angle of their own.
CK_HD float m_angle(float w, float h) { return angle_polynomial(w, h); }
CK_HD double m_angle(double w, double h) { return ::atan2(w, h); }

// Corners with what the loss of this kind needs.
template <class V>
CK_HD Box<V> loss_box(Overlap kind, V x1, V y1, V x2, V y2) {
  Box<V> box = {x1, y1, x2, y2, box_area(x1, y1, x2, y2), V(0)};
  if (kind == Overlap::ciou) box.angle = m_angle(m_max(sub_rn(x2, x1), V(0)), m_max(sub_rn(y2, y1), V(0)));
  return box;
}

// 1, or NaN where a coordinate is NaN or infinite.
template <class V>
CK_HD V one_if_finite(const Box<V>& a, const Box<V>& b) {
  const V zero(0);
  return V(1) + (((zero * a.x1 + zero * a.y1) + (zero * a.x2 + zero * a.y2)) +
                 ((zero * b.x1 + zero * b.y1) + (zero * b.x2 + zero * b.y2)));
}

template <class V>
CK_HD V box_iou_loss(Overlap kind, const Box<V>& a, const Box<V>& b) {
  return sub_rn(V(1), overlap<false>(kind, a, b, 1.0)) * one_if_finite(a, b);
}

// ---- gradient ----------------------------------------------------------------------------------------------------------

// a / b where b is not tiny, else 0
template <class V>
CK_HD V bounded_ratio(V a, V b) {
  return m_where_lt(V(1e-30f), b, a / b, V(0));
}

// d min(a, b) / da
template <class V>
CK_HD V share_of_min(V a, V b) {
  return m_where_lt(a, b, V(1), m_where_lt(b, a, V(0), V(0.5f)));
}

// Derivatives of the overlap with respect to the lengths on one axis.
template <class V>
struct AxisSlopes {
  V shared, span;    // shared_length, spanned_length
  V side_a, side_b;  // the boxes' own sides
  V centre;          // an end of a, by way of the distance of the centres; of b the opposite
};

// From lengths to ends.
template <class V>
CK_HD void ends_gradient(V a1, V a2, V b1, V b2, const AxisSlopes<V>& s, V scale, V& da1, V& da2, V& db1, V& db2) {
  const V zero(0);
  const V shared = m_where_lt(zero, shared_length(a1, a2, b1, b2), s.shared, zero);
  const V span = m_where_lt(zero, spanned_length(a1, a2, b1, b2), s.span, zero);
  const V side_a = m_where_lt(a1, a2, s.side_a, zero), side_b = m_where_lt(b1, b2, s.side_b, zero);
  const V apart = shared - span, high = share_of_min(a2, b2) * apart, low = share_of_min(b1, a1) * apart;
  da2 = scale * ((s.centre + side_a) + (span + high));
  da1 = scale * ((s.centre - side_a) - (span + low));
  db2 = scale * ((side_b - s.centre) + (shared - high));
  db1 = scale * ((zero - s.centre - side_b) - (shared - low));
}

// da, db = grad * d loss / d (x1, y1, x2, y2) of the two boxes.
template <class V>
CK_HD void box_iou_loss_gradient(Overlap kind, const Box<V>& a, const Box<V>& b, V grad, V (&da)[4], V (&db)[4]) {
  const V zero(0), one(1);
  const V aw = m_max(a.x2 - a.x1, zero), ah = m_max(a.y2 - a.y1, zero);
  const V bw = m_max(b.x2 - b.x1, zero), bh = m_max(b.y2 - b.y1, zero);
  const V iw = shared_length(a.x1, a.x2, b.x1, b.x2), ih = shared_length(a.y1, a.y2, b.y1, b.y2);
  const V inter = intersection(a, b), uni = union_area(a, b, inter), iou = ratio(inter, uni);
  const V per_union = bounded_ratio(one, uni);
  V d_inter = (one + iou) * per_union, d_area = zero - iou * per_union;  // the union is the areas less the intersection
  AxisSlopes<V> x = {zero, zero, zero, zero, zero}, y = x;
  if (kind != Overlap::iou) {
    const V cw = spanned_length(a.x1, a.x2, b.x1, b.x2), ch = spanned_length(a.y1, a.y2, b.y1, b.y2);
    if (kind == Overlap::giou) {  // iou - 1 + union / around
      const V around = cw * ch, per_around = m_where_lt(uni, around, bounded_ratio(one, around), zero);
      const V d_around = zero - uni * per_around * per_around;
      d_inter = d_inter - per_around, d_area = d_area + per_around;
      x.span = d_around * ch, y.span = d_around * cw;
    } else {
      const V dx = (a.x1 + a.x2) - (b.x1 + b.x2), dy = (a.y1 + a.y2) - (b.y1 + b.y2);
      const V per_diagonal = bounded_ratio(one, cw * cw + ch * ch);
      const V distance = (dx * dx + dy * dy) * V(0.25f) * per_diagonal, d_diagonal = V(2) * distance * per_diagonal;
      x.span = d_diagonal * cw, y.span = d_diagonal * ch;
      x.centre = V(-0.5f) * dx * per_diagonal, y.centre = V(-0.5f) * dy * per_diagonal;
    }
    if (kind == Overlap::ciou) {
      const V turn = a.angle - b.angle, v = turn * turn * V(kAspectScale);
      const V alpha = m_where_lt(zero, v, v / ((one - iou) + v), zero), d_turn = V(-2 * kAspectScale) * alpha * turn;
      const V d_a = bounded_ratio(d_turn, aw * aw + ah * ah), d_b = bounded_ratio(d_turn, bw * bw + bh * bh);
      x.side_a = d_a * ah, y.side_a = zero - d_a * aw;
      x.side_b = zero - d_b * bh, y.side_b = d_b * bw;
    }
  }
  x.shared = d_inter * ih, y.shared = d_inter * iw;
  x.side_a = x.side_a + d_area * ah, y.side_a = y.side_a + d_area * aw;
  x.side_b = x.side_b + d_area * bh, y.side_b = y.side_b + d_area * bw;
  const V scale = zero - grad * one_if_finite(a, b);
  ends_gradient(a.x1, a.x2, b.x1, b.x2, x, scale, da[0], da[2], db[0], db[2]);
  ends_gradient(a.y1, a.y2, b.y1, b.y2, y, scale, da[1], da[3], db[1], db[3]);
}

}  // namespace ck

// Greedy non-maximum suppression on the CPU.
//
// Per image: radix-sort by score, group by segment.  Per segment: put the boxes into a grid of cells by their centres, and
// go through them by falling score; a box that is still in is kept and removes its neighbours.  What makes it fast:
//   - Overlap above a threshold t >= 0 needs IoU > t, which bounds the distance of the centres: |dx| < w (1 - t) / (2 t).
//     Only the cells within that distance are looked at, instead of all boxes.
//   - The boxes are stored in the order of the cells, one array per coordinate.  The cells of one grid row are neighbours
//     in memory, so a query is a few contiguous runs, tested 16 boxes at a time.  A run may end inside a vector: the boxes
//     beyond are merely tested too.
//   - A box that is out (removed, or had its turn) gets x1 = infinity, so it overlaps nothing: no flags to load.
//   - The vector test has no division: IoU > t implies intersection >= round(t * union), because rounding is monotonic.
//     Vectors in which a box passes are decided by the exact overlap, so decisions are those of csrc/math/box_overlap.h.
// Compiled with -ffp-contract=off (CMakeLists.txt), since a fused multiply-add would round differently.
#include "nms.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

// ---- sorting ------------------------------------------------------------------------------------------------------------
template <class K> struct Item {
  K key;
  int32_t index;
};

// Unsigned keys that ascend where scores fall; -0 counts as 0.
inline uint32_t falling_key(float s) {
  if (s == 0.f) s = 0.f;
  uint32_t u;
  std::memcpy(&u, &s, 4);
  return u >> 31 ? u : ~(u | 0x80000000u);
}
inline uint64_t falling_key(double s) {
  if (s == 0.0) s = 0.0;
  uint64_t u;
  std::memcpy(&u, &s, 8);
  return u >> 63 ? u : ~(u | (uint64_t(1) << 63));
}

// Stable, by key; least significant digit first, digits that all keys share skipped.
template <class K>
void sort(std::vector<Item<K>>& items) {
  constexpr int kBits = 11, kDigits = (8 * sizeof(K) + kBits - 1) / kBits;
  constexpr K kMask = (K(1) << kBits) - 1;
  if (items.size() < 512) {
    std::stable_sort(items.begin(), items.end(), [](const Item<K>& a, const Item<K>& b) { return a.key < b.key; });
    return;
  }
  std::vector<std::array<int32_t, kMask + 1>> start(kDigits);  // zeros: counts first, then places
  for (const auto& i : items)
    for (int d = 0; d < kDigits; ++d) ++start[d][(i.key >> (d * kBits)) & kMask];
  std::vector<Item<K>> other(items.size());
  for (int d = 0; d < kDigits; ++d) {
    auto& s = start[d];
    if (s[(items[0].key >> (d * kBits)) & kMask] == static_cast<int32_t>(items.size())) continue;
    int32_t sum = 0;
    for (auto& c : s) sum += std::exchange(c, sum);
    for (const auto& i : items) other[s[(i.key >> (d * kBits)) & kMask]++] = i;
    items.swap(other);
  }
}

// ---- one image ------------------------------------------------------------------------------------------------------------
struct Segment {
  int64_t image;
  int32_t begin, end;  // its part of Image::members
};

template <class S> struct Image {
  std::vector<int32_t> order;    // rank (by falling score, boxes that cannot be kept left out) -> index
  std::vector<Box<S>> boxes;     // by rank
  std::vector<int32_t> members;  // ranks grouped by segment, rising within each
  std::vector<Segment> segments;
  std::vector<uint8_t> kept;  // by rank
};

// Numbers the distinct ids among ids[order[r]] in the order of their appearance: a hash table with open addressing.
template <class S>
void group(Image<S>& m, const int64_t* ids, int64_t image) {
  const int32_t n = static_cast<int32_t>(m.order.size());
  m.members.resize(n);
  if (!ids) {
    for (int32_t r = 0; r < n; ++r) m.members[r] = r;
    if (n) m.segments.push_back({image, 0, n});
    return;
  }
  int bits = 4;
  while ((int64_t(1) << bits) < 2 * int64_t(n)) ++bits;
  std::vector<int32_t> table(size_t(1) << bits, -1), number(n);
  std::vector<int64_t> id;
  std::vector<int32_t> start;
  for (int32_t r = 0; r < n; ++r) {
    const int64_t v = ids[m.order[r]];
    size_t slot = (static_cast<uint64_t>(v) * 0x9e3779b97f4a7c15u) >> (64 - bits);
    while (table[slot] >= 0 && id[table[slot]] != v) slot = (slot + 1) & (table.size() - 1);
    if (table[slot] < 0) {
      table[slot] = static_cast<int32_t>(id.size());
      id.push_back(v), start.push_back(0);
    }
    ++start[number[r] = table[slot]];
  }
  int32_t sum = 0;
  for (auto& s : start) {
    m.segments.push_back({image, sum, sum + s});
    sum += std::exchange(s, sum);
  }
  for (int32_t r = 0; r < n; ++r) m.members[start[number[r]]++] = r;
}

template <class T>
void prepare(const NmsArgs& a, int64_t image, Image<Acc<T>>& m) {
  using S = Acc<T>;
  using Key = decltype(falling_key(S()));
  const T* boxes = static_cast<const T*>(a.boxes) + image * a.n * 4;
  const T* scores = static_cast<const T*>(a.scores) + image * a.n;
  const auto number = [](T v) {
    if constexpr (std::is_same_v<T, double>) return v;
    else return to_float(v);
  };
  std::vector<Item<Key>> items;
  items.reserve(a.n);
  for (int32_t i = 0; i < a.n; ++i) {
    const T* b = boxes + 4 * int64_t(i);
    const S s = number(scores[i]);
    // 0 * x is 0 for finite x, else NaN
    if (s == s && S(0) * number(b[0]) + S(0) * number(b[1]) + S(0) * number(b[2]) + S(0) * number(b[3]) == S(0))
      items.push_back({falling_key(s), i});
  }
  sort(items);
  const size_t n = items.size();
  m.order.resize(n), m.boxes.resize(n), m.kept.assign(n, 0);
  for (size_t r = 0; r < n; ++r) {
    m.order[r] = items[r].index;
    const T* b = boxes + 4 * int64_t(items[r].index);
    const S x1 = number(b[0]), y1 = number(b[1]), x2 = number(b[2]), y2 = number(b[3]);
    m.boxes[r] = {x1, y1, x2, y2, box_area(x1, y1, x2, y2), a.kind == Overlap::ciou ? box_angle(x1, y1, x2, y2) : S(0)};
  }
  group(m, a.segments ? a.segments + image * a.n : nullptr, image);
}

// ---- the grid of one segment ----------------------------------------------------------------------------------------------
// One axis: cells of equal size over the range of the doubled centres c = lo + hi.  cell() is monotonic, also after
// rounding, so that a centre within [c - r, c + r] is in a cell within [cell(c - r), cell(c + r)].
struct Axis {
  double origin = 0, per_unit = 0, ratio = 0, largest = 0;
  int cells = 1;
  int cell(double c) const {
    return cells == 1 ? 0 : static_cast<int>(std::clamp((c - origin) * per_unit, 0.0, cells - 1.0));
  }
  // How far apart the doubled centres can be if this box, `size` long, has IoU > t with another: that needs IoU > t along
  // the axis, for which w (1 - t) / t bounds it; touching at all is the bound for small t.
  double reach(double c, double size) const {
    const double near = size * ratio, touching = size + largest;
    return (near < touching ? near : touching) + std::fabs(c) * 1e-15;
  }
};

template <class S>
struct Grid {
  Axis x, y;
  std::vector<int32_t> start;                  // first place of every cell, row by row; one more at the end
  std::vector<int32_t> place;                  // by member
  std::vector<S> x1, y1, x2, y2, area, angle;  // by place, N more at the end
};

template <class S>
void build(Grid<S>& g, const NmsArgs& a, const Box<S>* boxes, const int32_t* members, int32_t n) {
  g.place.resize(n);
  double low[2], high[2], sum[2] = {0, 0};
  if (n > 48 && a.threshold >= 0) {
    Axis* axes[2] = {&g.x, &g.y};
    for (int d = 0; d < 2; ++d) {
      low[d] = std::numeric_limits<double>::infinity(), high[d] = -low[d];
      const double t = a.threshold * (1 - 1e-5);  // the computed IoU is this exact, with room to spare
      axes[d]->ratio = (1 - t) / t;
    }
    for (int32_t k = 0; k < n; ++k) {
      const Box<S>& b = boxes[members[k]];
      const double c[2] = {double(b.x1) + double(b.x2), double(b.y1) + double(b.y2)};
      const double size[2] = {double(b.x2) - double(b.x1), double(b.y2) - double(b.y1)};
      for (int d = 0; d < 2; ++d) {
        low[d] = std::min(low[d], c[d]), high[d] = std::max(high[d], c[d]);
        sum[d] += std::max(size[d], 0.0);
        axes[d]->largest = std::max(axes[d]->largest, size[d]);
      }
    }
    // Rows as high as a usual reach (three rows a query), columns a quarter of it, and not more cells than boxes.
    double most = std::sqrt(double(n));
    for (int d = 1; d >= 0; --d) {
      const double range = high[d] - low[d], usual = axes[d]->reach(0, sum[d] / n);
      const double cells = std::min(most, d ? range / usual : 4 * range / usual);
      if (cells >= 2 && std::isfinite(range)) {
        axes[d]->cells = static_cast<int>(cells);
        axes[d]->origin = low[d], axes[d]->per_unit = axes[d]->cells / range;
      }
      most = double(n) / g.y.cells;
    }
  }
  g.start.assign(int64_t(g.x.cells) * g.y.cells + 1, 0);
  const size_t room = n + V<S>::N;
  for (auto* v : {&g.x1, &g.y1, &g.x2, &g.y2, &g.area, &g.angle}) v->resize(room);
  if (g.start.size() == 2) {
    for (int32_t k = 0; k < n; ++k) g.place[k] = k;
    g.start[1] = n;
  } else {
    for (int32_t k = 0; k < n; ++k) {
      const Box<S>& b = boxes[members[k]];
      g.place[k] = g.y.cell(double(b.y1) + double(b.y2)) * g.x.cells + g.x.cell(double(b.x1) + double(b.x2));
      ++g.start[g.place[k]];
    }
    int32_t total = 0;
    for (auto& s : g.start) total += std::exchange(s, total);
    for (int32_t k = 0; k < n; ++k) g.place[k] = g.start[g.place[k]]++;
    for (size_t c = g.start.size() - 1; c > 0; --c) g.start[c] = g.start[c - 1];  // the starts again, from the ends
    g.start[0] = 0;
  }
  for (int32_t k = 0; k < n; ++k) {
    const Box<S>& b = boxes[members[k]];
    const int32_t p = g.place[k];
    g.x1[p] = b.x1, g.y1[p] = b.y1, g.x2[p] = b.x2, g.y2[p] = b.y2, g.area[p] = b.area, g.angle[p] = b.angle;
  }
  for (size_t p = n; p < room; ++p) {
    g.x1[p] = std::numeric_limits<S>::infinity();
    g.y1[p] = g.x2[p] = g.y2[p] = g.area[p] = g.angle[p] = S(0);
  }
}

// ---- suppression ----------------------------------------------------------------------------------------------------------
// Takes out of [begin, end) (and what else is in the last vector) all that overlap b by more than the threshold.
template <class S>
void suppress(Grid<S>& g, const NmsArgs& a, const Box<S>& b, int32_t begin, int32_t end) {
  constexpr int N = V<S>::N;
  constexpr S kOut = std::numeric_limits<S>::infinity();
  const S threshold = static_cast<S>(a.threshold);
  const V<S> t(threshold), out(kOut), least(std::numeric_limits<S>::denorm_min());
  const Box<V<S>> w = {b.x1, b.y1, b.x2, b.y2, b.area, b.angle};
  S* const x1 = g.x1.data();
  const bool screen = threshold >= S(0);
  for (int32_t q = begin; q < end; q += N) {
    const Box<V<S>> o = {vload(x1 + q),          vload(g.y1.data() + q),   vload(g.x2.data() + q),
                         vload(g.y2.data() + q), vload(g.area.data() + q), V<S>(S(0))};
    uint32_t hits = (1u << N) - 1;
    if (screen) {
      const V<S> inter = intersection(w, o);
      hits = lanes_le(m_max(t * union_area(w, o, inter), least), inter);
      if (!hits) continue;
    }
    if (a.beta == 1.0) {
      const Box<V<S>> exact = {o.x1, o.y1, o.x2, o.y2, o.area, vload(g.angle.data() + q)};
      store(x1 + q, m_where_lt(t, overlap<false>(a.kind, w, exact, 1.0), out, o.x1));
      continue;
    }
    for (; hits; hits &= hits - 1) {  // lane by lane, for the power's sake
      const int32_t p = q + __builtin_ctz(hits);
      const Box<S> exact = {x1[p], g.y1[p], g.x2[p], g.y2[p], g.area[p], g.angle[p]};
      if (exact.x1 != kOut && overlap<true>(a.kind, b, exact, a.beta) > threshold) x1[p] = kOut;
    }
  }
}

template <class S>
void greedy(const NmsArgs& a, Image<S>& m, const Segment& s) {
  const int32_t n = s.end - s.begin;
  const int32_t* members = m.members.data() + s.begin;
  Grid<S> g;
  build(g, a, m.boxes.data(), members, n);
  int64_t left = a.max_out;
  for (int32_t k = 0; k < n && left > 0; ++k) {
    S& x1 = g.x1[g.place[k]];
    if (x1 == std::numeric_limits<S>::infinity()) continue;
    m.kept[members[k]] = 1;
    --left;
    x1 = std::numeric_limits<S>::infinity();
    const Box<S>& b = m.boxes[members[k]];
    if (g.start.size() == 2) {
      suppress(g, a, b, 0, n);
    } else if (b.area > S(0)) {
      const double cx = double(b.x1) + double(b.x2), rx = g.x.reach(cx, double(b.x2) - double(b.x1));
      const double cy = double(b.y1) + double(b.y2), ry = g.y.reach(cy, double(b.y2) - double(b.y1));
      const int first = g.x.cell(cx - rx), last = g.x.cell(cx + rx), bottom = g.y.cell(cy + ry);
      for (int row = g.y.cell(cy - ry); row <= bottom; ++row) {
        const int32_t* cells = g.start.data() + int64_t(row) * g.x.cells;
        suppress(g, a, b, cells[first], cells[last + 1]);
      }
    }
  }
}

template <class S>
void emit(const NmsArgs& a, int64_t image, const Image<S>& m) {
  int64_t* out = a.indices + image * a.max_out;
  int64_t count = 0;
  for (size_t r = 0; r < m.order.size() && count < a.max_out; ++r)
    if (m.kept[r]) out[count++] = m.order[r];
  a.count[image] = count;
  std::fill(out + count, out + a.max_out, int64_t(-1));
}

}  // namespace

void nms(const NmsArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    using T = decltype(t);
    using S = Acc<T>;
    std::vector<Image<S>> images(a.images);
    parallel(a.pool, a.images, 1 + 4096 / (1 + a.n), [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) prepare<T>(a, i, images[i]);
    });
    std::vector<Segment> segments;
    for (const auto& m : images) segments.insert(segments.end(), m.segments.begin(), m.segments.end());
    const int64_t count = static_cast<int64_t>(segments.size());
    const int64_t grain = a.images * a.n < 4096 ? count : 1;  // below, waking a thread costs more than it saves
    parallel(a.pool, count, grain, [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) greedy(a, images[segments[i].image], segments[i]);
    });
    parallel(a.pool, a.images, 1 + 65536 / (1 + a.n), [&](int64_t b, int64_t e) {
      for (int64_t i = b; i < e; ++i) emit(a, i, images[i]);
    });
  });
}

}  // namespace ck::cpu::CK_ISA

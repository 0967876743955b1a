// x enlarged by its nearest pixels, plus y.  Bytes per element of y, when it has four times as many as x: 2.25e forward,
// 1.25e backward; interpolate and add move 4.25e, through a map of y's size that nobody wants.
//
// A task takes rows of the result.  In NCHW a row that doubles its columns is made by interleaving a vector with itself, and
// taken back by splitting pairs; other factors go through a table of columns.  In channels_last a pixel is a run of channels.
#include "upsample_add.h"

#include <algorithm>
#include <vector>

#include "elements.h"

namespace ck::cpu::CK_ISA {
namespace {

int64_t row_grain(int64_t elements) { return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements)); }

// Whether pixel i shows pixel i / 2: twice as many, or one less.
bool doubles(const NearestAxis& a) {
  if (a.to != 2 * a.from && a.to != 2 * a.from - 1) return false;
  for (int i = 0; i < a.to; ++i)
    if (a.source(i) != i / 2) return false;  // fp32 has run out of digits
  return true;
}

// first(0), first(1) ... first(from)
std::vector<int> firsts(const NearestAxis& a) {
  std::vector<int> first(a.from + 1);
  for (int s = 0; s <= a.from; ++s) first[s] = a.first(s);
  return first;
}

std::vector<int> sources(const NearestAxis& a) {
  std::vector<int> source(a.to);
  for (int i = 0; i < a.to; ++i) source[i] = a.source(i);
  return source;
}

// ---- forward -----------------------------------------------------------------------------------------------------------

template <class T>
CK_INLINE void add_doubled(const T* x, const T* y, T* out, int columns) {
  constexpr int N = V<T>::N;
  for (int j = 0; j < columns; j += 2 * N) {
    const int here = std::min(2 * N, columns - j), n = std::min(N, here);
    V<T> a = get(x + j / 2, (here + 1) / 2), b = a;
    if constexpr (N > 1) merge_pairs(a, b);  // of one lane, the two are apart already
    put(out + j, a + get(y + j, n), n);
    if (here > N) put(out + j + N, b + get(y + j + N, here - N), here - N);
  }
}

template <class T>
CK_INLINE void add_picked(const T* x, const int* source, const T* y, T* out, int columns) {
  constexpr int N = V<T>::N;
  T picked[N];
  for (int j = 0; j < columns; j += N) {
    const int n = std::min(N, columns - j);
    for (int k = 0; k < n; ++k) picked[k] = x[source[j + k]];
    put(out + j, get(picked, n) + get(y + j, n), n);
  }
}

template <class T>
void add_planes(const UpsampleAddArgs& a) {
  const NearestAxis &rows = a.shape.rows, &columns = a.shape.columns;
  const bool doubled = doubles(columns);
  const std::vector<int> source = doubled ? std::vector<int>() : sources(columns), source_row = sources(rows);
  parallel(a.pool, a.shape.N * a.shape.C * rows.to, row_grain(columns.to), [&](int64_t begin, int64_t end) {
    int64_t plane = begin / rows.to, i = begin % rows.to;  // rows may be so short that a division takes as long
    for (int64_t t = begin; t < end; ++t, ++i) {
      if (i == rows.to) i = 0, ++plane;
      const T* const x = static_cast<const T*>(a.x) + (plane * rows.from + source_row[i]) * columns.from;
      const T* const y = static_cast<const T*>(a.y) + t * columns.to;
      T* const out = static_cast<T*>(a.out) + t * columns.to;
      if (doubled) add_doubled(x, y, out, columns.to);
      else add_picked(x, source.data(), y, out, columns.to);
    }
  });
}

template <class T>
void add_pixels(const UpsampleAddArgs& a) {
  const NearestAxis &rows = a.shape.rows, &columns = a.shape.columns;
  const int64_t C = a.shape.C;
  const std::vector<int> source = sources(columns);
  parallel(a.pool, a.shape.N * rows.to, row_grain(columns.to * C), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t image = t / rows.to, row = rows.source(static_cast<int>(t - image * rows.to));
      const T* const x = static_cast<const T*>(a.x) + (image * rows.from + row) * columns.from * C;
      for (int j = 0; j < columns.to; ++j) {
        const T* const pixel = x + source[j] * C;
        const int64_t at = (t * columns.to + j) * C;
        const T* const y = static_cast<const T*>(a.y) + at;
        T* const out = static_cast<T*>(a.out) + at;
        for_vectors<T>(0, C, [&](int64_t c, int n) __attribute__((always_inline)) {
          put(out + c, get(pixel + c, n) + get(y + c, n), n);
        });
      }
    }
  });
}

// ---- backward: sums of the pixels that show a pixel ----------------------------------------------------------------------

// grad: the first of `rows` rows of a plane.
template <class T>
CK_INLINE void sum_doubled(const T* grad, int64_t rows, const NearestAxis& columns, T* dx) {
  constexpr int N = V<T>::N;
  for (int s = 0; s < columns.from; s += N) {
    const int here = std::min(2 * N, columns.to - 2 * s), n = std::min(N, here), more = std::max(0, here - N);
    V<T> sum(Acc<T>(0));
    for (int64_t r = 0; r < rows; ++r) {
      const T* const g = grad + r * columns.to + 2 * s;
      V<T> a = get(g, n), b = more ? get(g + N, more) : V<T>(Acc<T>(0));
      if constexpr (N > 1) split_pairs(a, b);
      sum = sum + (a + b);
    }
    put(dx + s, sum, std::min(N, columns.from - s));
  }
}

template <class T>
CK_INLINE void sum_picked(const T* grad, int64_t rows, const NearestAxis& columns, const int* first, T* dx) {
  constexpr int N = V<T>::N;
  for (int s = 0; s < columns.from; ++s) {
    Acc<T> total(0);
    for (int64_t r = 0; r < rows; ++r)
      for (int j = first[s]; j < first[s + 1]; j += N)
        total += sum(vload_n(grad + r * columns.to + j, std::min(N, first[s + 1] - j)));
    store_n(dx + s, V<T>(total), 1);
  }
}

template <class T>
void sum_planes(const UpsampleAddBackwardArgs& a) {
  const NearestAxis &rows = a.shape.rows, &columns = a.shape.columns;
  const bool doubled = doubles(columns);
  const std::vector<int> first_row = firsts(rows), first = firsts(columns);
  parallel(a.pool, a.shape.N * a.shape.C * rows.from, row_grain(4 * columns.from), [&](int64_t begin, int64_t end) {
    int64_t plane = begin / rows.from, row = begin % rows.from;
    for (int64_t t = begin; t < end; ++t, ++row) {
      if (row == rows.from) row = 0, ++plane;
      const int64_t count = first_row[row + 1] - first_row[row];
      const T* const grad = static_cast<const T*>(a.grad) + (plane * rows.to + first_row[row]) * columns.to;
      T* const dx = static_cast<T*>(a.dx) + t * columns.from;
      if (doubled) sum_doubled(grad, count, columns, dx);
      else sum_picked(grad, count, columns, first.data(), dx);
    }
  });
}

template <class T>
void sum_pixels(const UpsampleAddBackwardArgs& a) {
  const NearestAxis &rows = a.shape.rows, &columns = a.shape.columns;
  const int64_t C = a.shape.C;
  const std::vector<int> first_row = firsts(rows), first = firsts(columns);
  parallel(a.pool, a.shape.N * rows.from, row_grain(4 * columns.from * C), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t image = t / rows.from, row = t - image * rows.from;
      for (int s = 0; s < columns.from; ++s) {
        T* const dx = static_cast<T*>(a.dx) + (t * columns.from + s) * C;
        for_vectors<T>(0, C, [&](int64_t c, int n) __attribute__((always_inline)) {
          V<T> sum(Acc<T>(0));
          for (int i = first_row[row]; i < first_row[row + 1]; ++i)
            for (int j = first[s]; j < first[s + 1]; ++j)
              sum = sum + get(static_cast<const T*>(a.grad) + ((image * rows.to + i) * columns.to + j) * C + c, n);
          put(dx + c, sum, n);
        });
      }
    }
  });
}

}  // namespace

void upsample_add_forward(const UpsampleAddArgs& a) {
  if (a.shape.large() == 0) return;
  with_dtype(a.shape.dtype, [&](auto t) {
    if (a.shape.channels_last) add_pixels<decltype(t)>(a);
    else add_planes<decltype(t)>(a);
  });
}

void upsample_add_backward(const UpsampleAddBackwardArgs& a) {
  if (a.shape.small() == 0) return;
  with_dtype(a.shape.dtype, [&](auto t) {
    if (a.shape.channels_last) sum_pixels<decltype(t)>(a);
    else sum_planes<decltype(t)>(a);
  });
}

}  // namespace ck::cpu::CK_ISA

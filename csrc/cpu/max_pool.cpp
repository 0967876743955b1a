// PyTorch's kernel writes an index of eight bytes beside every maximum, also where no gradient is wanted: three times the
// bytes.  This one reads x and writes y, and the windows' overlap comes from the L1 cache.
// Large windows are taken apart: first maxima of columns, each of which serves all windows that it lies in.
#include "max_pool.h"

#include <algorithm>

#include "scratch.h"
#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kTaskElements = 16384;  // of y: several times the cost of waking a thread

template <class T>
struct MaxPool {
  using VA = V<T>;
  static constexpr int N = VA::N;
  const MaxPoolArgs& a;
  const bool apart;  // where it saves loads, with as many again for going through memory

  explicit MaxPool(const MaxPoolArgs& args) : a(args), apart(a.kh * a.kw > 2 * (a.kh * a.sw + a.kw)) {}

  // The window's part inside an axis of `size`.
  struct Inside {
    int64_t begin, end;
    Inside(int64_t at, int64_t window, int64_t size)
        : begin(std::max<int64_t>(at, 0)), end(std::min<int64_t>(at + window, size)) {}
  };

  // y[0 .. channels) = the greatest over rows and columns that lie `row` and a.C apart.
  void greatest(const T* x, int64_t rows, int64_t row, int64_t columns, int64_t channels, T* y) const {
    const auto most = [&](const T* x, auto&& load) __attribute__((always_inline)) {
      VA v = load(x);
      for (int64_t i = 0; i < rows; ++i, x += row)
        for (int64_t j = 0; j < columns; ++j) v = m_max_nan(v, load(x + j * a.C));
      return v;
    };
    int64_t c = 0;
    for (; c + N <= channels; c += N) store(y + c, most(x + c, [](const T* p) { return vload(p); }));
    if (const int rest = static_cast<int>(channels - c))
      store_n(y + c, most(x + c, [=](const T* p) { return vload_n(p, rest); }), rest);
  }

  void row(int64_t n, int64_t p) const {
    const Inside h(p * a.sh - a.top, a.kh, a.H);
    const T* image = static_cast<const T*>(a.x) + (n * a.H + h.begin) * a.W * a.C;
    T* y = static_cast<T*>(a.y) + (n * a.P + p) * a.Q * a.C;
    const int64_t width = a.W * a.C;
    int64_t rows = h.end - h.begin;
    if (apart) {
      T* const columns = kept<T>(0, width);
      greatest(image, rows, width, 1, width, columns);
      image = columns, rows = 1;
    }
    for (int64_t q = 0; q < a.Q; ++q, y += a.C) {
      const Inside w(q * a.sw - a.left, a.kw, a.W);
      greatest(image + w.begin * a.C, rows, width, w.end - w.begin, a.C, y);
    }
  }
};

}  // namespace

void max_pool(const MaxPoolArgs& a) {
  with_dtype(a.dtype, [&](auto t) {
    const MaxPool<decltype(t)> pooled(a);
    const int64_t grain = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, a.Q * a.C));
    parallel(a.pool, a.N * a.P, grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) pooled.row(r / a.P, r % a.P);
    });
  });
}

}  // namespace ck::cpu::CK_ISA

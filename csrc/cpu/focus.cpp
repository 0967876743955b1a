// Focus: 2e bytes per element, no arithmetic.  A task takes rows of the image in pairs: one row of each quarter.
#include "focus.h"

#include "streams.h"

namespace ck::cpu::CK_ISA {
namespace {

// NCHW: even and odd elements of both rows.
template <bool INVERSE, class U>
void focus_planes(const FocusArgs& a) {
  const FocusShape& s = a.shape;
  const int64_t quarter = s.C * s.H * s.W;  // elements
  parallel(a.pool, s.N * s.C * s.H, move_grain(8 * s.W * s.element_size), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t image = 4 * t * s.W, quarters = t / (s.C * s.H) * 3 * quarter + t * s.W;
      for (int row = 0; row < 2; ++row) {
        const int64_t whole = image + 2 * row * s.W, even = quarters + row * quarter, odd = even + 2 * quarter;
        const U* from = static_cast<const U*>(a.from);
        U* to = static_cast<U*>(a.to);
        const U* const halves[2] = {from + even, from + odd};
        U* const halves_out[2] = {to + even, to + odd};
        move_streams<INVERSE, 2, U, kVectorBytes>(halves, halves_out, from + whole, to + whole, s.W);
      }
    }
  });
}

// channels_last: items of `bytes` from two rows in turn.  Items move in chunks that reach beyond their end, where the next
// item is about to be written; the last ones of a row, where nothing of this row comes after, exactly.
template <bool INVERSE, int CHUNK>
void focus_pixels(const FocusArgs& a) {
  const FocusShape& s = a.shape;
  const int64_t bytes = s.C * s.element_size, row = 2 * s.W * bytes, items = 2 * s.W;
  const int64_t chunked = CHUNK == 0 || row < CHUNK ? 0 : (row - CHUNK) / bytes + 1;
  parallel(a.pool, s.N * s.H, move_grain(4 * row), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const char* from = static_cast<const char*>(a.from) + 2 * t * row;
      char* to = static_cast<char*>(a.to) + 2 * t * row;
      const auto move = [&](int64_t begin, int64_t end, auto&& copy) {
        for (int64_t j = begin; j < end; ++j) {
          char* const there = to + (INVERSE ? 1 : 2) * j * bytes;
          const char* const here = from + (INVERSE ? 2 : 1) * j * bytes;
          copy(there, here);
          copy(there + (INVERSE ? row : bytes), here + (INVERSE ? bytes : row));
        }
      };
      if constexpr (CHUNK > 0) {
        move(0, chunked, copy_chunk<CHUNK>);
        move(chunked, items,
             [=](char* there, const char* here) { std::memcpy(there, here, static_cast<size_t>(bytes)); });
      } else {
        move(0, items, [=](char* there, const char* here) { copy_run(there, here, bytes); });
      }
    }
  });
}

template <bool INVERSE>
void focus(const FocusArgs& a) {
  const FocusShape& s = a.shape;
  if (s.channels_last) {
    const int64_t bytes = s.C * s.element_size;
    if (bytes <= 8) return focus_pixels<INVERSE, 8>(a);
    if (bytes <= 16) return focus_pixels<INVERSE, 16>(a);
    return bytes <= 32 ? focus_pixels<INVERSE, 32>(a) : focus_pixels<INVERSE, 0>(a);
  }
  switch (s.element_size) {
    case 2: return focus_planes<INVERSE, uint16_t>(a);
    case 4: return focus_planes<INVERSE, uint32_t>(a);
    default: return focus_planes<INVERSE, uint64_t>(a);
  }
}

}  // namespace

void focus(const FocusArgs& a) {
  if (a.shape.elements() == 0) return;
  if (a.shape.inverse) focus<true>(a);
  else focus<false>(a);
}

}  // namespace ck::cpu::CK_ISA

// Floating-point numbers as integers that compare as they do, and pairs of such a number and a place as one integer, so that
// "the maximum, and where it is" is a plain maximum.  One rule for every backend, that of PyTorch's max pooling:
//
//   NaN is greater than any number.  Of equal numbers the one at the smaller place wins, of NaNs that at the greater.
#pragma once
#include <cstdint>

#include "activation.h"  // CK_HD

namespace ck {

// I: the signed integer of the type's size.  NaNs become the greatest I, which is a NaN's bits again.  V: I, or a vector of I.
template <class I>
struct Order {
  static constexpr int kSign = 8 * static_cast<int>(sizeof(I)) - 1;
  static constexpr I kGreatest = static_cast<I>(~(uint64_t(1) << 63) >> (63 - kSign));
  static constexpr I kLeast = static_cast<I>(-kGreatest - 1);  // below -infinity: what lies outside an image

  // infinity: its bits.
  template <class V>
  static CK_HD V key(V bits, I infinity) {
    const V nan = static_cast<V>((infinity - (bits & kGreatest)) >> kSign);  // all ones where it is one
    return static_cast<V>((flipped(bits) & ~nan) | (nan & kGreatest));
  }
  template <class V>
  static CK_HD V bits(V key) {
    return flipped(key);
  }

 private:
  template <class V>
  static CK_HD V flipped(V v) {  // its own inverse
    return static_cast<V>(v ^ ((v >> kSign) & kGreatest));
  }
};

// W: a signed integer of at least twice I's size; places are below half of W's range of values, 0 included.
template <class W, class I>
struct Placed {
  static constexpr int kBits = 4 * static_cast<int>(sizeof(W));
  static constexpr W kMask = (static_cast<W>(1) << kBits) - 1;
  static constexpr W kLeast = static_cast<W>(Order<I>::kLeast) * (kMask + 1);

  static CK_HD W pair(I key, int64_t place) {
    const I value = key == -1 ? static_cast<I>(0) : key;  // -0 is 0
    const W low = static_cast<W>(key == Order<I>::kGreatest ? place : ~place) & kMask;
    return static_cast<W>(value) * (kMask + 1) + low;
  }
  static CK_HD int64_t place(W pair) {
    const bool nan = (pair >> kBits) == static_cast<W>(Order<I>::kGreatest);
    return static_cast<int64_t>((nan ? pair : ~pair) & kMask);
  }
};

}  // namespace ck

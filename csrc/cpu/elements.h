// Element-wise passes: vectors with a ragged end, element type and activation made compile-time constants.
#pragma once
#include <cstdint>

#include "parallel.h"
#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

constexpr int64_t kGrain = 16384;  // elements per task: 64 KiB of fp32, several times the cost of waking a thread

// The first n elements; zeros in the other lanes.
template <class T> CK_INLINE V<T> get(const T* p, int n) { return n == V<T>::N ? vload(p) : vload_n(p, n); }
template <class T> CK_INLINE void put(T* p, V<T> v, int n) {
  if (n == V<T>::N) store(p, v);
  else store_n(p, v, n);
}

// f(first element, valid lanes) over [begin, end); two vectors a turn keep both FMA pipes busy.
template <class T, class F>
CK_INLINE void for_vectors(int64_t begin, int64_t end, F&& f) {
  constexpr int N = V<T>::N;
  int64_t i = begin;
  for (; i + 2 * N <= end; i += 2 * N) f(i, N), f(i + N, N);
  for (; i + N <= end; i += N) f(i, N);
  if (i < end) f(i, static_cast<int>(end - i));
}

// f(T(), activation as a compile-time constant)
template <class F>
void with_dtype_and_act(Dtype dtype, Act act, F&& f) {
  with_dtype(dtype, [&](auto t) { with_act(act, [&](auto a) { f(t, a); }); });
}

}  // namespace
}  // namespace ck::cpu::CK_ISA

// A tiny harness for drive_<op>.cpp: kernels on exactly sized heap buffers: a sanitizer sees every step outside.
//
//   DRIVE(activation) { Buffer<float> x(100), y(100); x.random(1); ...; expect_close("mish", y, z, 1e-6); }
//
// Every case runs on each CPU instruction set the machine has; CUDA launchers run through hostcuda.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <random>

#include "../../csrc/cpu/isa.h"
#include "../../csrc/cpu/parallel.h"
#include "../../csrc/math/dtype.h"

namespace drive {

extern int failures;
struct Register {
  Register(const char* name, void (*run)());
};
#define DRIVE(name)                                              \
  static void drive_##name();                                    \
  static ::drive::Register register_##name(#name, drive_##name); \
  static void drive_##name()

template <class T> struct DtypeOf;
template <> struct DtypeOf<float> {
  static constexpr ck::Dtype value = ck::Dtype::f32;
};
template <> struct DtypeOf<double> {
  static constexpr ck::Dtype value = ck::Dtype::f64;
};
template <> struct DtypeOf<__half> {
  static constexpr ck::Dtype value = ck::Dtype::f16;
};
template <> struct DtypeOf<__nv_bfloat16> {
  static constexpr ck::Dtype value = ck::Dtype::bf16;
};

// n elements in an allocation of exactly that size, 16-byte aligned (as PyTorch's are), filled with NaN bytes.
template <class T>
struct Buffer {
  explicit Buffer(int64_t n) : n(n), raw(nullptr, std::free) {
    void* p = nullptr;  // aligned_alloc would want the size rounded up, and hide a step beyond the end
    if (posix_memalign(&p, 16, n * sizeof(T)) != 0) throw std::bad_alloc();
    raw.reset(static_cast<char*>(p));
    std::memset(raw.get(), 0xff, n * sizeof(T));
  }
  T* data() { return reinterpret_cast<T*>(raw.get()); }
  const T* data() const { return reinterpret_cast<const T*>(raw.get()); }
  T& operator[](int64_t i) { return data()[i]; }
  double at(int64_t i) const { return static_cast<double>(static_cast<float>(data()[i])); }
  Buffer& random(unsigned seed, float low = -1.f, float high = 1.f) {
    std::mt19937 g(seed);
    std::uniform_real_distribution<float> d(low, high);
    for (int64_t i = 0; i < n; ++i) data()[i] = T(d(g));
    return *this;
  }
  Buffer& fill(float v) {
    for (int64_t i = 0; i < n; ++i) data()[i] = T(v);
    return *this;
  }
  int64_t n;
  std::unique_ptr<char, void (*)(void*)> raw;
};

template <class A, class B>
void expect_close(const char* what, const Buffer<A>& got, const Buffer<B>& want, double tolerance) {
  double worst = 0;
  for (int64_t i = 0; i < got.n; ++i) {
    const double e = std::fabs(got.at(i) - want.at(i)) / (1.0 + std::fabs(want.at(i)));
    worst = e <= worst ? worst : e;  // a NaN error is kept
    if (std::isnan(e)) worst = INFINITY;
  }
  if (got.n != want.n || !(worst <= tolerance)) {
    std::printf("  FAIL %s: error %.3g, allowed %.3g\n", what, worst, tolerance);
    ++failures;
  }
}

inline void expect(const char* what, bool ok) {
  if (!ok) {
    std::printf("  FAIL %s\n", what);
    ++failures;
  }
}

// f() on every CPU instruction set there is.
template <class F>
void for_each_isa(F&& f) {
  using ck::cpu::Isa;
#if defined(CK_CPU_GENERIC_ONLY)
  f();
  return;
#endif
  for (Isa i : {Isa::generic, Isa::avx2, Isa::avx512})
    if (ck::cpu::set_isa(i) == i) f();
}

// Splits ranges as `threads` threads would take them, and works through the parts one after the other.
template <int threads>
ck::cpu::Pool pool_of() {
  return {[](int64_t b, int64_t e, int64_t grain, ck::cpu::Pool::Body body, void* c) {
            const int64_t share = std::max(grain, (e - b + threads - 1) / threads);
            for (; b < e; b += share) body(b, std::min(b + share, e), c);
          },
          threads};
}

// The rounding of one result in T.
template <class T> constexpr double eps() { return sizeof(T) == 2 ? (std::is_same_v<T, __half> ? 1e-3 : 8e-3) : 2e-6; }

// f(T()) for the three types that CPU and CUDA kernels share.
template <class F>
void for_each_type(F&& f) {
  f(float());
  f(__half());
  f(__nv_bfloat16());
}

}  // namespace drive

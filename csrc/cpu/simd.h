// SIMD vectors of the CPU kernels.  In namespace ck::cpu::CK_ISA:
//
//   F32   a vector of F32::N floats: 16 (AVX-512), 8 (AVX2), 4 (plain C++).      V<float>, V<Half>, V<BFloat16> = F32
//   F64   one double, for the fp64 path that gradcheck needs.                    V<double> = F64
//
// load/store convert from and to the element type T, so that one kernel serves fp32, fp16 and bf16 and accumulates in
// fp32.  load_n/store_n touch the first n elements only (0 <= n <= N) and load zeros for the rest; keep_n(v, n) is v with
// zeros after the first n lanes.  load_m and store_m touch the elements of V::Lanes only, which V::lanes(begin, end) makes.
// lanes_le(a, b) has bit i set where a_i <= b_i.  split_pairs(a, b) leaves the even elements of the two in a, the odd in b;
// merge_pairs undoes it.  m_min and m_max return b where either is NaN; m_max_nan(a, b) is NaN there.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../math/activation.h"
#include "../math/dtype.h"
#include "isa.h"

#define CK_INLINE inline __attribute__((always_inline))

namespace ck::cpu {
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
}  // namespace ck::cpu

namespace ck::cpu::CK_ISA {

// ---- scalar conversions ---------------------------------------------------------------------------------------------
CK_INLINE float to_float(float x) { return x; }
CK_INLINE float to_float(Half h) {
#if defined(__F16C__)
  return _cvtsh_ss(h.bits);
#else
  const uint32_t sign = uint32_t(h.bits & 0x8000u) << 16, mag = h.bits & 0x7fffu;
  uint32_t u;
  float f;
  if (mag >= 0x7c00u) {
    u = sign | 0x7f800000u | (mag << 13);
  } else if (mag >= 0x0400u) {
    u = sign | ((mag << 13) + (112u << 23));
  } else {  // subnormal: mag * 2^-24
    f = float(mag) * 5.9604644775390625e-8f;
    std::memcpy(&u, &f, 4);
    u |= sign;
  }
  std::memcpy(&f, &u, 4);
  return f;
#endif
}
CK_INLINE float to_float(BFloat16 b) {
  const uint32_t u = uint32_t(b.bits) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
template <class T> CK_INLINE T from_float(float x);
template <> CK_INLINE float from_float<float>(float x) { return x; }
template <> CK_INLINE double from_float<double>(float x) { return x; }
template <> CK_INLINE Half from_float<Half>(float x) {
#if defined(__F16C__)
  return {_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT)};
#else
  uint32_t u;
  std::memcpy(&u, &x, 4);
  const uint32_t sign = (u >> 16) & 0x8000u;
  u &= 0x7fffffffu;
  if (u > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
  if (u >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};  // 65520 and more round to infinity
  if (u < 0x38800000u) {                                    // subnormal: adding 0.5 aligns the last bit to 2^-24
    float f;
    std::memcpy(&f, &u, 4);
    f += 0.5f;
    std::memcpy(&u, &f, 4);
    return {uint16_t(sign | (u - 0x3f000000u))};
  }
  u += 0xc8000fffu + ((u >> 13) & 1u);  // rebias the exponent, round to nearest even
  return {uint16_t(sign | (u >> 13))};
#endif
}
template <> CK_INLINE BFloat16 from_float<BFloat16>(float x) {
  uint32_t u;
  std::memcpy(&u, &x, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {uint16_t((u >> 16) | 0x40u)};  // NaN stays NaN
  return {uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

// Masked instructions and gathers are invisible to AddressSanitizer; under it, touch reads what they are about to touch.
#if defined(__SANITIZE_ADDRESS__)
template <class T> inline void touch(const T* p, uint32_t lanes, int64_t step = 1) {
  for (; lanes; lanes &= lanes - 1) (void)*reinterpret_cast<const volatile char*>(p + __builtin_ctz(lanes) * step);
}
#else
template <class T> CK_INLINE void touch(const T*, uint32_t, int64_t = 1) {}
#endif

// ---- F64: one double ------------------------------------------------------------------------------------------------
struct F64 {
  static constexpr int N = 1;
  using scalar = double;
  using Lanes = bool;
  static CK_INLINE Lanes lanes(int64_t begin, int64_t end) { return begin <= 0 && end > 0; }
  double v;
  F64() = default;
  CK_INLINE F64(double x) : v(x) {}
};
CK_INLINE F64 operator+(F64 a, F64 b) { return a.v + b.v; }
CK_INLINE F64 operator-(F64 a, F64 b) { return a.v - b.v; }
CK_INLINE F64 operator*(F64 a, F64 b) { return a.v * b.v; }
CK_INLINE F64 operator/(F64 a, F64 b) { return a.v / b.v; }
CK_INLINE F64 fma(F64 a, F64 b, F64 c) { return a.v * b.v + c.v; }
CK_INLINE F64 m_exp(F64 a) { return std::exp(a.v); }
CK_INLINE F64 m_rcp(F64 a) { return 1.0 / a.v; }
CK_INLINE F64 m_min(F64 a, F64 b) { return a.v < b.v ? a.v : b.v; }
CK_INLINE F64 m_max(F64 a, F64 b) { return a.v > b.v ? a.v : b.v; }
CK_INLINE F64 m_max_nan(F64 a, F64 b) { return a.v != a.v || a.v > b.v ? a.v : b.v; }
CK_INLINE F64 m_where_lt(F64 a, F64 b, F64 y, F64 n) { return a.v < b.v ? y : n; }
CK_INLINE uint32_t lanes_le(F64 a, F64 b) { return a.v <= b.v; }
CK_INLINE double sum(F64 a) { return a.v; }
CK_INLINE F64 keep_n(F64 a, int n) { return n > 0 ? a.v : 0.0; }
CK_INLINE void load(F64& r, const double* p) { r.v = *p; }
CK_INLINE void store(double* p, F64 v) { *p = v.v; }
CK_INLINE void load_n(F64& r, const double* p, int n) { r.v = n > 0 ? *p : 0.0; }
CK_INLINE void load_m(F64& r, const double* p, bool valid) { r.v = valid ? *p : 0.0; }
CK_INLINE void load_step(F64& r, const double* p, int64_t) { r.v = *p; }
CK_INLINE void store_m(double* p, F64 v, bool valid) {
  if (valid) *p = v.v;
}
CK_INLINE void store_n(double* p, F64 v, int n) {
  if (n > 0) *p = v.v;
}

// ---- F32 ------------------------------------------------------------------------------------------------------------
#if defined(__AVX512F__)
struct F32 {
  static constexpr int N = 16;
  using scalar = float;
  using Lanes = __mmask16;
  static CK_INLINE Lanes lanes(int64_t begin, int64_t end) {
    const int64_t b = begin < 0 ? 0 : begin > 16 ? 16 : begin, e = end < 0 ? 0 : end > 16 ? 16 : end;
    return static_cast<Lanes>(((1u << e) - 1u) & ~((1u << b) - 1u));
  }
  __m512 v;
  F32() = default;
  CK_INLINE F32(__m512 x) : v(x) {}
  CK_INLINE F32(float x) : v(_mm512_set1_ps(x)) {}
};
CK_INLINE F32 operator+(F32 a, F32 b) { return _mm512_add_ps(a.v, b.v); }
CK_INLINE F32 operator-(F32 a, F32 b) { return _mm512_sub_ps(a.v, b.v); }
CK_INLINE F32 operator-(F32 a) { return -a.v; }
CK_INLINE F32 operator*(F32 a, F32 b) { return _mm512_mul_ps(a.v, b.v); }
CK_INLINE F32 operator/(F32 a, F32 b) { return _mm512_div_ps(a.v, b.v); }
CK_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a.v, b.v, c.v); }
CK_INLINE F32 m_min(F32 a, F32 b) { return _mm512_min_ps(a.v, b.v); }
CK_INLINE F32 m_max(F32 a, F32 b) { return _mm512_max_ps(a.v, b.v); }
CK_INLINE F32 m_max_nan(F32 a, F32 b) {
  return _mm512_mask_mov_ps(_mm512_max_ps(a.v, b.v), _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), a.v);
}
CK_INLINE F32 m_where_lt(F32 a, F32 b, F32 y, F32 n) {
  return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), n.v, y.v);
}
CK_INLINE uint32_t lanes_le(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ); }
CK_INLINE float sum(F32 a) { return _mm512_reduce_add_ps(a.v); }
CK_INLINE F32 times_two_to(F32 a, F32 n) { return _mm512_scalef_ps(a.v, n.v); }
CK_INLINE F32 m_rcp(F32 a) {  // 14-bit estimate and one Newton step: 1 ulp, for |a| from 2^-126 to 2^126
  const __m512 r = _mm512_rcp14_ps(a.v);
  return _mm512_fmadd_ps(_mm512_fnmadd_ps(a.v, r, _mm512_set1_ps(1.f)), r, r);
}
CK_INLINE __mmask16 first(int n) { return static_cast<__mmask16>(n >= 16 ? 0xffff : (1u << n) - 1u); }
CK_INLINE F32 keep_n(F32 a, int n) { return _mm512_maskz_mov_ps(first(n), a.v); }
CK_INLINE __m512 widen(__m256i h, Half) { return _mm512_cvtph_ps(h); }
CK_INLINE __m512 widen(__m256i b, BFloat16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16));
}
CK_INLINE __m256i narrow(__m512 v, Half) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
CK_INLINE __m256i narrow(__m512 v, BFloat16) {
  const __m512i u = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i r = _mm512_mask_or_epi32(rounded, nan, u, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(r, 16));
}
CK_INLINE void load(F32& r, const float* p) { r.v = _mm512_loadu_ps(p); }
CK_INLINE void store(float* p, F32 v) { _mm512_storeu_ps(p, v.v); }
CK_INLINE void load_n(F32& r, const float* p, int n) {
  touch(p, first(n));
  r.v = _mm512_maskz_loadu_ps(first(n), p);
}
CK_INLINE void store_n(float* p, F32 v, int n) {
  touch(p, first(n));
  _mm512_mask_storeu_ps(p, first(n), v.v);
}
CK_INLINE void load_m(F32& r, const float* p, F32::Lanes m) {
  touch(p, m);
  r.v = _mm512_maskz_loadu_ps(m, p);
}
CK_INLINE void store_m(float* p, F32 v, F32::Lanes m) {
  touch(p, m);
  _mm512_mask_storeu_ps(p, m, v.v);
}
CK_INLINE void load_step(F32& r, const float* p, int64_t step) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  touch(p, 0xffff, step);
  r.v = _mm512_i32gather_ps(_mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int>(step))), p, 4);
}
CK_INLINE void split_pairs(F32& a, F32& b) {
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  const __m512 e = _mm512_permutex2var_ps(a.v, even, b.v);
  b.v = _mm512_permutex2var_ps(a.v, odd, b.v);
  a.v = e;
}
CK_INLINE void merge_pairs(F32& a, F32& b) {
  const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  const __m512 l = _mm512_permutex2var_ps(a.v, low, b.v);
  b.v = _mm512_permutex2var_ps(a.v, high, b.v);
  a.v = l;
}
template <class T> CK_INLINE void load(F32& r, const T* p) {
  r.v = widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)), T());
}
template <class T> CK_INLINE void store(T* p, F32 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v.v, T()));
}
template <class T> CK_INLINE void load_n(F32& r, const T* p, int n) {
  touch(p, first(n));
  r.v = widen(_mm256_maskz_loadu_epi16(first(n), p), T());
}
template <class T> CK_INLINE void store_n(T* p, F32 v, int n) {
  touch(p, first(n));
  _mm256_mask_storeu_epi16(p, first(n), narrow(v.v, T()));
}
template <class T> CK_INLINE void load_m(F32& r, const T* p, F32::Lanes m) {
  touch(p, m);
  r.v = widen(_mm256_maskz_loadu_epi16(m, p), T());
}
template <class T> CK_INLINE void store_m(T* p, F32 v, F32::Lanes m) {
  touch(p, m);
  _mm256_mask_storeu_epi16(p, m, narrow(v.v, T()));
}
#elif defined(__AVX2__)
struct F32 {
  static constexpr int N = 8;
  using scalar = float;
  struct Lanes {
    __m256i mask;
    int begin, end;
  };
  static CK_INLINE Lanes lanes(int64_t begin, int64_t end) {
    const int b = static_cast<int>(begin < 0 ? 0 : begin > 8 ? 8 : begin);
    const int e = static_cast<int>(end < 0 ? 0 : end > 8 ? 8 : end);
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(b), lane),
                                _mm256_cmpgt_epi32(_mm256_set1_epi32(e), lane)),
            b, e};
  }
  __m256 v;
  F32() = default;
  CK_INLINE F32(__m256 x) : v(x) {}
  CK_INLINE F32(float x) : v(_mm256_set1_ps(x)) {}
};
CK_INLINE F32 operator+(F32 a, F32 b) { return _mm256_add_ps(a.v, b.v); }
CK_INLINE F32 operator-(F32 a, F32 b) { return _mm256_sub_ps(a.v, b.v); }
CK_INLINE F32 operator*(F32 a, F32 b) { return _mm256_mul_ps(a.v, b.v); }
CK_INLINE F32 operator/(F32 a, F32 b) { return _mm256_div_ps(a.v, b.v); }
CK_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a.v, b.v, c.v); }
CK_INLINE F32 m_min(F32 a, F32 b) { return _mm256_min_ps(a.v, b.v); }
CK_INLINE F32 m_max(F32 a, F32 b) { return _mm256_max_ps(a.v, b.v); }
CK_INLINE F32 m_max_nan(F32 a, F32 b) {
  return _mm256_blendv_ps(_mm256_max_ps(a.v, b.v), a.v, _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q));
}
CK_INLINE F32 m_where_lt(F32 a, F32 b, F32 y, F32 n) {
  return _mm256_blendv_ps(n.v, y.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ));
}
CK_INLINE uint32_t lanes_le(F32 a, F32 b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ)));
}
CK_INLINE float sum(F32 a) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
CK_INLINE F32 times_two_to(F32 a, F32 n) {  // in two halves, so that 2^n itself need not be representable
  const __m256i i = _mm256_cvtps_epi32(n.v), h = _mm256_srai_epi32(i, 1), bias = _mm256_set1_epi32(127);
  const __m256 s0 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(h, bias), 23));
  const __m256 s1 = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(i, h), bias), 23));
  return _mm256_mul_ps(_mm256_mul_ps(a.v, s0), s1);
}
CK_INLINE F32 m_rcp(F32 a) { return _mm256_div_ps(_mm256_set1_ps(1.f), a.v); }
CK_INLINE __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
CK_INLINE F32 keep_n(F32 a, int n) { return _mm256_and_ps(a.v, _mm256_castsi256_ps(first(n))); }
CK_INLINE __m256 widen(__m128i h, Half) { return _mm256_cvtph_ps(h); }
CK_INLINE __m256 widen(__m128i b, BFloat16) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(b), 16));
}
CK_INLINE __m128i narrow(__m256 v, Half) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
CK_INLINE __m128i narrow(__m256 v, BFloat16) {
  const __m256i u = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
  const __m256i r = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(r), _mm256_extracti128_si256(r, 1));
}
CK_INLINE void touch(const float* p, __m256i mask) {
  touch(p, static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(mask))));
}
CK_INLINE void load(F32& r, const float* p) { r.v = _mm256_loadu_ps(p); }
CK_INLINE void store(float* p, F32 v) { _mm256_storeu_ps(p, v.v); }
CK_INLINE void load_n(F32& r, const float* p, int n) {
  touch(p, first(n));
  r.v = _mm256_maskload_ps(p, first(n));
}
CK_INLINE void store_n(float* p, F32 v, int n) {
  touch(p, first(n));
  _mm256_maskstore_ps(p, first(n), v.v);
}
CK_INLINE void load_m(F32& r, const float* p, F32::Lanes m) {
  touch(p, m.mask);
  r.v = _mm256_maskload_ps(p, m.mask);
}
CK_INLINE void store_m(float* p, F32 v, F32::Lanes m) {
  touch(p, m.mask);
  _mm256_maskstore_ps(p, m.mask, v.v);
}
CK_INLINE void load_step(F32& r, const float* p, int64_t step) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  touch(p, 0xff, step);
  r.v = _mm256_i32gather_ps(p, _mm256_mullo_epi32(lane, _mm256_set1_epi32(static_cast<int>(step))), 4);
}
CK_INLINE void split_pairs(F32& a, F32& b) {  // within 128-bit lanes, then the four 64-bit quarters in order
  const __m256d e = _mm256_castps_pd(_mm256_shuffle_ps(a.v, b.v, 0x88));
  const __m256d o = _mm256_castps_pd(_mm256_shuffle_ps(a.v, b.v, 0xdd));
  a.v = _mm256_castpd_ps(_mm256_permute4x64_pd(e, 0xd8));
  b.v = _mm256_castpd_ps(_mm256_permute4x64_pd(o, 0xd8));
}
CK_INLINE void merge_pairs(F32& a, F32& b) {  // interleaved within 128-bit lanes, then the lanes in order
  const __m256 l = _mm256_unpacklo_ps(a.v, b.v), h = _mm256_unpackhi_ps(a.v, b.v);
  a.v = _mm256_permute2f128_ps(l, h, 0x20);
  b.v = _mm256_permute2f128_ps(l, h, 0x31);
}
template <class T> CK_INLINE void load(F32& r, const T* p) {
  r.v = widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), T());
}
template <class T> CK_INLINE void store(T* p, F32 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(v.v, T()));
}
template <class T> CK_INLINE void load_n(F32& r, const T* p, int n) {
  T t[8] = {};
  for (int i = 0; i < n; ++i) t[i] = p[i];
  load(r, t);
}
template <class T> CK_INLINE void store_n(T* p, F32 v, int n) {
  T t[8];
  store(t, v);
  for (int i = 0; i < n; ++i) p[i] = t[i];
}
template <class T> CK_INLINE void load_m(F32& r, const T* p, F32::Lanes m) {
  if (m.begin == 0 && m.end == 8) return load(r, p);
  T t[8] = {};
  for (int i = m.begin; i < m.end; ++i) t[i] = p[i];
  load(r, t);
}
template <class T> CK_INLINE void store_m(T* p, F32 v, F32::Lanes m) {
  if (m.begin == 0 && m.end == 8) return store(p, v);
  T t[8];
  store(t, v);
  for (int i = m.begin; i < m.end; ++i) p[i] = t[i];
}
#else
struct F32 {  // four floats that the compiler keeps in whatever registers the target has
  static constexpr int N = 4;
  using scalar = float;
  typedef float vec __attribute__((vector_size(16)));
  typedef int32_t ivec __attribute__((vector_size(16)));
  struct Lanes {
    int64_t begin, end;
  };
  static CK_INLINE Lanes lanes(int64_t begin, int64_t end) { return {begin, end}; }
  vec v;
  F32() = default;
  CK_INLINE F32(vec x) : v(x) {}
  CK_INLINE F32(float x) : v(vec{x, x, x, x}) {}
};
CK_INLINE F32 operator+(F32 a, F32 b) { return a.v + b.v; }
CK_INLINE F32 operator-(F32 a, F32 b) { return a.v - b.v; }
CK_INLINE F32 operator*(F32 a, F32 b) { return a.v * b.v; }
CK_INLINE F32 operator/(F32 a, F32 b) { return a.v / b.v; }
CK_INLINE F32 fma(F32 a, F32 b, F32 c) { return a.v * b.v + c.v; }
CK_INLINE F32 m_min(F32 a, F32 b) { return a.v < b.v ? a.v : b.v; }
CK_INLINE F32 m_max(F32 a, F32 b) { return a.v > b.v ? a.v : b.v; }
CK_INLINE F32 m_max_nan(F32 a, F32 b) { return (a.v != a.v) | (a.v > b.v) ? a.v : b.v; }
CK_INLINE F32 m_where_lt(F32 a, F32 b, F32 y, F32 n) { return a.v < b.v ? y.v : n.v; }
CK_INLINE uint32_t lanes_le(F32 a, F32 b) {
  const F32::ivec m = a.v <= b.v;
  return (m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8);
}
CK_INLINE float sum(F32 a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
CK_INLINE F32 times_two_to(F32 a, F32 n) {
  F32::ivec i = __builtin_convertvector(n.v, F32::ivec), h = i >> 1;
  const F32::ivec b0 = (h + 127) << 23, b1 = (i - h + 127) << 23;
  F32::vec s0, s1;
  std::memcpy(&s0, &b0, 16);
  std::memcpy(&s1, &b1, 16);
  return a.v * s0 * s1;
}
CK_INLINE F32 m_rcp(F32 a) { return F32(1.f) / a; }
CK_INLINE F32 keep_n(F32 a, int n) {
  for (int i = 0; i < 4; ++i) a.v[i] = i < n ? a.v[i] : 0.f;
  return a;
}
// Four conversions, or four lanes asked for one by one, are long: out of line the kernels compile in a third of the time.
#define CK_LONG inline __attribute__((noinline))
CK_INLINE void load(F32& r, const float* p) { std::memcpy(&r.v, p, 16); }
CK_INLINE void store(float* p, F32 v) { std::memcpy(p, &v.v, 16); }
template <class T> CK_LONG F32 load_four(const T* p) {
  return F32::vec{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
}
template <class T> CK_INLINE void load(F32& r, const T* p) { r = load_four(p); }
template <class T> CK_LONG void store(T* p, F32 v) {
  for (int i = 0; i < 4; ++i) p[i] = from_float<T>(v.v[i]);
}
template <class T> CK_LONG F32 load_some(const T* p, F32::Lanes m) {
  F32 r;
  for (int i = 0; i < 4; ++i) r.v[i] = i >= m.begin && i < m.end ? to_float(p[i]) : 0.f;
  return r;
}
template <class T> CK_LONG void store_some(T* p, F32 v, F32::Lanes m) {
  for (int i = 0; i < 4; ++i)
    if (i >= m.begin && i < m.end) p[i] = from_float<T>(v.v[i]);
}
template <class T> CK_INLINE void load_m(F32& r, const T* p, F32::Lanes m) {
  if (m.begin <= 0 && m.end >= 4) load(r, p);
  else r = load_some(p, m);
}
template <class T> CK_INLINE void store_m(T* p, F32 v, F32::Lanes m) {
  if (m.begin <= 0 && m.end >= 4) store(p, v);
  else store_some(p, v, m);
}
template <class T> CK_INLINE void load_n(F32& r, const T* p, int n) { load_m(r, p, {0, n}); }
template <class T> CK_INLINE void store_n(T* p, F32 v, int n) { store_m(p, v, {0, n}); }
#undef CK_LONG
CK_INLINE void merge_pairs(F32& a, F32& b) {
  const F32::vec l = {a.v[0], b.v[0], a.v[1], b.v[1]}, h = {a.v[2], b.v[2], a.v[3], b.v[3]};
  a.v = l, b.v = h;
}
CK_INLINE void split_pairs(F32& a, F32& b) {
  const F32::vec e = {a.v[0], a.v[2], b.v[0], b.v[2]}, o = {a.v[1], a.v[3], b.v[1], b.v[3]};
  a.v = e, b.v = o;
}
CK_INLINE void load_step(F32& r, const float* p, int64_t step) {
  for (int i = 0; i < 4; ++i) r.v[i] = p[i * step];
}
#endif
// r = p[0], p[step], p[2 * step] ...
template <class T> CK_INLINE void load_step(F32& r, const T* p, int64_t step) {
  T t[F32::N];
  for (int i = 0; i < F32::N; ++i) t[i] = p[i * step];
  load(r, t);
}

// e^x = 2^n e^r: n the integer nearest to x / log 2, |r| <= log(2) / 2.  Adding 1.5 * 2^23 rounds to an integer.
struct Reduced {
  F32 n, r;
};
CK_INLINE Reduced reduce(F32 x) {
  const F32 magic(12582912.f), n = fma(x, F32(1.44269504088896341f), magic) - magic;
#if defined(__FMA__)  // the float nearest to log 2 is within 2e-9 of it: near enough for every n
  return {n, fma(n, F32(-0.693147180559945309f), x)};
#else  // the product is rounded: subtract first what it is exact for
  return {n, fma(n, F32(2.12194440054690583e-4f), fma(n, F32(-0.693359375f), x))};
#endif
}
CK_INLINE F32 exp_polynomial(F32 r) {  // coefficients of the least relative error, 9.4e-8
  F32 p = fma(F32(8.290257e-3f), r, F32(4.1899398e-2f));
  p = fma(p, r, F32(0.16667646f));
  p = fma(p, r, F32(0.4999914f));
  p = fma(p, r, F32(0.9999997f));
  return fma(p, r, F32(1.f));
}
CK_INLINE F32 exp_reduced(const Reduced& a) { return times_two_to(exp_polynomial(a.r), a.n); }
// e^x.  Results outside the fp32 range become 0 and +inf; NaN stays NaN.
CK_INLINE F32 m_exp(F32 x) { return exp_reduced(reduce(m_max(F32(-104.f), m_min(F32(89.f), x)))); }

#if defined(__AVX512F__)
// 1 / (1 + e^-x), preferred to the template in activation.h: the mask that makes it 0 below -87.3, where 1 + e^-x would leave
// the range of the estimate, costs one comparison and stands in for a clamp on that side.
CK_INLINE F32 m_sigmoid(F32 x) {
  const __m512 d = (F32(1.f) + exp_reduced(reduce(-m_min(F32(87.3f), x)))).v, r = _mm512_rcp14_ps(d);
  const __mmask16 keep = _mm512_cmp_ps_mask(x.v, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ);  // NaN too
  return _mm512_maskz_fmadd_ps(keep, _mm512_fnmadd_ps(d, r, _mm512_set1_ps(1.f)), r, r);
}
#elif defined(__AVX2__)
// The same for both: e^-x + 1, and where it may be used.  Up to the clamp e^-x is a normal number, so that 2^n is an addition
// to its exponent; and the integer n, times 2^23, is what rounding by addition leaves in the low bits.
CK_INLINE F32 one_plus_exp_of_minus(F32 x) {
  const F32 magic(12582912.f), y = m_min(F32(87.3f), x), shifted = fma(y, F32(-1.44269504088896341f), magic);
  const F32 r = _mm256_fnmsub_ps((shifted - magic).v, _mm256_set1_ps(0.693147180559945309f), y.v);
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(shifted.v), 23);
  return F32(1.f) + F32(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(exp_polynomial(r).v), exponent)));
}
CK_INLINE F32 zero_where_small(F32 x, F32 v) {  // where e^-x leaves the range; NaN stays
  return _mm256_and_ps(v.v, _mm256_cmp_ps(x.v, _mm256_set1_ps(-87.3f), _CMP_NLT_UQ));
}
CK_INLINE F32 m_sigmoid(F32 x) { return zero_where_small(x, m_rcp(one_plus_exp_of_minus(x))); }
CK_INLINE F32 m_silu(F32 x) { return zero_where_small(x, _mm256_div_ps(x.v, one_plus_exp_of_minus(x).v)); }
#endif

// ---- which vector goes with an element type -------------------------------------------------------------------------
template <class T> struct VecOf {
  using type = F32;
};
template <> struct VecOf<double> {
  using type = F64;
};
template <class T> using V = typename VecOf<T>::type;
// The accumulate and parameter type: double for double, float for the rest.
template <class T> using Acc = typename V<T>::scalar;

template <class T> CK_INLINE V<T> vload(const T* p) {
  V<T> r;
  load(r, p);
  return r;
}
template <class T> CK_INLINE V<T> vload_n(const T* p, int n) {
  V<T> r;
  load_n(r, p, n);
  return r;
}
template <class T> CK_INLINE V<T> vload_m(const T* p, typename V<T>::Lanes m) {
  V<T> r;
  load_m(r, p, m);
  return r;
}

// Calls f(T()) with the element type that d names.
template <class F>
inline void with_dtype(Dtype d, F&& f) {
  switch (d) {
    case Dtype::f32: return f(float());
    case Dtype::f64: return f(double());
    case Dtype::f16: return f(Half());
    case Dtype::bf16: return f(BFloat16());
  }
}

}  // namespace ck::cpu::CK_ISA

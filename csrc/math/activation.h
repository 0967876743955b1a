// Activations and their derivatives, one formula for every backend.
//
// V is float (CUDA threads), double (fp64 on the CPU) or a SIMD vector (csrc/cpu/simd.h).  A V brings its arithmetic
// operators and, found by argument-dependent lookup or below for scalars:
//   m_exp(v)  m_rcp(v)  m_min(v, w)  m_max(v, w)  m_where_lt(a, b, yes, no)
// Comparisons are written so that a NaN input gives a NaN output, as PyTorch's own activations do.
#pragma once
#include <cmath>
#include <type_traits>

#if defined(__CUDACC__)
#define CK_HD __host__ __device__ __forceinline__
#else
#define CK_HD inline __attribute__((always_inline))
#endif

namespace ck {

// The numbering is shared with cnnkernels/_activation.py; a test compares the two.
enum class Act : int {
  identity = 0,
  relu = 1,
  relu6 = 2,
  leaky_relu = 3,
  silu = 4,
  hard_swish = 5,
  mish = 6,
  sigmoid = 7,
  hard_sigmoid = 8,
};

CK_HD float m_exp(float x) {
#if defined(__CUDA_ARCH__)
  return __expf(x);  // 2 ulp + |x| * 2^-24 relative: below the fp32 tolerance of every activation here
#else
  return ::expf(x);
#endif
}
CK_HD double m_exp(double x) { return ::exp(x); }
CK_HD float m_rcp(float x) {
#if defined(__CUDA_ARCH__)
  return __fdividef(1.f, x);  // 2 ulp up to 2^126; beyond that it gives 0, which sigmoid means
#else
  return 1.f / x;
#endif
}
CK_HD double m_rcp(double x) { return 1.0 / x; }
// The second operand is returned when either is NaN.
CK_HD float m_min(float a, float b) { return a < b ? a : b; }
CK_HD double m_min(double a, double b) { return a < b ? a : b; }
CK_HD float m_max(float a, float b) { return a > b ? a : b; }
CK_HD double m_max(double a, double b) { return a > b ? a : b; }
// The larger, or the smaller, of a number that is no NaN and x: NaN where x is one.
template <class V>
CK_HD V m_at_least(V low, V x) {
  return m_max(low, x);
}
template <class V>
CK_HD V m_at_most(V high, V x) {
  return m_min(high, x);
}
#if defined(__CUDA_ARCH__)
// One instruction, where a comparison and a choice are two.
CK_HD float m_at_least(float low, float x) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(low), "f"(x));
  return y;
}
CK_HD float m_at_most(float high, float x) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(high), "f"(x));
  return y;
}
#endif
CK_HD float m_where_lt(float a, float b, float yes, float no) { return a < b ? yes : no; }
CK_HD double m_where_lt(double a, double b, double yes, double no) { return a < b ? yes : no; }

template <class V>
CK_HD V m_sigmoid(V x) {
  return m_rcp(V(1.f) + m_exp(V(0.f) - x));  // exp may reach its largest value, whose reciprocal is (rounded to) 0
}
template <class V>
CK_HD V m_silu(V x) {
  return x * m_sigmoid(x);
}

// y = act(x).  `slope` is used by leaky_relu only.
template <Act A, class V>
CK_HD V activate(V x, [[maybe_unused]] V slope) {
  [[maybe_unused]] const V zero(0.f), three(3.f), six(6.f);
  if constexpr (A == Act::identity) {
    return x;
  } else if constexpr (A == Act::relu) {
    return m_at_least(zero, x);
  } else if constexpr (A == Act::relu6) {
    return m_at_most(six, m_at_least(zero, x));
  } else if constexpr (A == Act::leaky_relu) {
    return m_where_lt(x, zero, x * slope, x);
  } else if constexpr (A == Act::silu) {
    return m_silu(x);
  } else if constexpr (A == Act::hard_swish) {
    return x * m_at_most(six, m_at_least(zero, x + three)) * V(1.0 / 6.0);
  } else if constexpr (A == Act::mish) {
    // tanh(log(1 + n)) = n(n + 2) / (n(n + 2) + 2), n = e^x.  Beyond 20 the quotient rounds to 1, n * n stays finite.
    const V n = m_exp(m_at_most(V(20.f), x));
    const V t = n * (n + V(2.f));
    return x * (t * m_rcp(t + V(2.f)));
  } else if constexpr (A == Act::sigmoid) {
    return m_sigmoid(x);
  } else {
    static_assert(A == Act::hard_sigmoid, "unknown activation");
    return m_at_most(six, m_at_least(zero, x + three)) * V(1.0 / 6.0);
  }
}

// d act(x) / dx, with PyTorch's choice at the kinks (0 where the function is flat on one side).
template <Act A, class V>
CK_HD V activate_grad([[maybe_unused]] V x, [[maybe_unused]] V slope) {
  [[maybe_unused]] const V zero(0.f), one(1.f), three(3.f), six(6.f);
  if constexpr (A == Act::identity) {
    return one;
  } else if constexpr (A == Act::relu) {
    return m_where_lt(zero, x, one, zero);
  } else if constexpr (A == Act::relu6) {
    return m_where_lt(zero, x, m_where_lt(x, six, one, zero), zero);
  } else if constexpr (A == Act::leaky_relu) {
    return m_where_lt(zero, x, one, slope);
  } else if constexpr (A == Act::silu) {
    const V s = m_sigmoid(x);
    return s * (one + x * (one - s));
  } else if constexpr (A == Act::hard_swish) {
    return m_where_lt(x, zero - three, zero, m_where_lt(three, x, one, x * V(1.0 / 3.0) + V(0.5f)));
  } else if constexpr (A == Act::mish) {
    // With D = n(n + 2) + 2: tanh(softplus) = n(n + 2) / D and its derivative is 4 n (n + 1) / D^2.
    const V xc = m_at_most(V(20.f), x), n = m_exp(xc);
    const V t = n * (n + V(2.f)), r = m_rcp(t + V(2.f));
    return t * r + V(4.f) * (xc * (n * r)) * ((n + one) * r);
  } else if constexpr (A == Act::sigmoid) {
    const V s = m_sigmoid(x);
    return s * (one - s);
  } else {
    static_assert(A == Act::hard_sigmoid, "unknown activation");
    return m_where_lt(zero - three, x, m_where_lt(x, three, V(1.0 / 6.0), zero), zero);
  }
}

// Calls f(std::integral_constant<Act, A>) with the run-time activation made a compile-time one.
template <class F>
inline auto with_act(Act a, F&& f) {
  switch (a) {
    case Act::relu: return f(std::integral_constant<Act, Act::relu>());
    case Act::relu6: return f(std::integral_constant<Act, Act::relu6>());
    case Act::leaky_relu: return f(std::integral_constant<Act, Act::leaky_relu>());
    case Act::silu: return f(std::integral_constant<Act, Act::silu>());
    case Act::hard_swish: return f(std::integral_constant<Act, Act::hard_swish>());
    case Act::mish: return f(std::integral_constant<Act, Act::mish>());
    case Act::sigmoid: return f(std::integral_constant<Act, Act::sigmoid>());
    case Act::hard_sigmoid: return f(std::integral_constant<Act, Act::hard_sigmoid>());
    case Act::identity: break;
  }
  return f(std::integral_constant<Act, Act::identity>());
}

}  // namespace ck

// Bytes on the move: short runs without memcpy's call, and S streams interleaved in vector registers, or taken apart.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <utility>

#include "simd.h"

namespace ck::cpu::CK_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// Items per task: several times the cost of waking a thread.
inline int64_t move_grain(int64_t bytes_per_item) {
  return std::max<int64_t>(1, 64 * 1024 / std::max<int64_t>(1, bytes_per_item));
}

// ---- runs --------------------------------------------------------------------------------------------------------------

template <int BYTES>
struct Chunk {
  char bytes[BYTES];
};
template <int BYTES>
CK_INLINE void copy_chunk(char* to, const char* from) {
  Chunk<BYTES> c;
  std::memcpy(&c, from, BYTES);
  std::memcpy(to, &c, BYTES);
}

// memcpy without its call: planes of 7x7 are 3 vectors long.  The last vector overlaps the one before.
CK_INLINE void copy_run(char* to, const char* from, int64_t n) {
  constexpr int B = kVectorBytes;
  if (n < B || n > 4096) {
    std::memcpy(to, from, static_cast<size_t>(n));
    return;
  }
  for (int64_t i = 0; i + B <= n; i += B) copy_chunk<B>(to + i, from + i);
  copy_chunk<B>(to + n - B, from + n - B);
}

// ---- interleaving of S vectors ----------------------------------------------------------------------------------------

template <class U, int N>
struct Lanes {
  typedef U type __attribute__((vector_size(N * sizeof(U))));
};

// {x[k] or y[k - N] for k = FROM(0), FROM(1), ...}: constants, so that it becomes one or two permutes.
template <class F, class U, int N, int... K>
CK_INLINE typename Lanes<U, N>::type pick_(typename Lanes<U, N>::type x, typename Lanes<U, N>::type y,
                                           std::integer_sequence<int, K...>) {
#if defined(__clang__)
  return __builtin_shufflevector(x, y, F::at(K, N)...);
#else
  return __builtin_shuffle(x, y, typename Lanes<U, N>::type{static_cast<U>(F::at(K, N))...});
#endif
}
template <class F, class U, int N>
CK_INLINE typename Lanes<U, N>::type pick(typename Lanes<U, N>::type x, typename Lanes<U, N>::type y) {
  return pick_<F, U, N>(x, y, std::make_integer_sequence<int, N>());
}

template <int HALF>
struct Zip {  // lanes [HALF * N, HALF * N + N) of x0 y0 x1 y1 ...
  static constexpr int at(int k, int n) { return (k % 2) * n + (k + HALF * n) / 2; }
};
template <int ODD>
struct Unzip {  // every second lane of x followed by y
  static constexpr int at(int k, int) { return 2 * k + ODD; }
};
// Three streams take two steps: lanes of the first two (stream 2's places hold lane 0), then those of the third.
template <int PART>
struct Zip3Start {
  static constexpr int at(int k, int n) {
    const int t = PART * n + k;
    return t % 3 == 2 ? 0 : (t % 3) * n + t / 3;
  }
};
template <int PART>
struct Zip3End {
  static constexpr int at(int k, int n) {
    const int t = PART * n + k;
    return t % 3 == 2 ? n + t / 3 : k;
  }
};
template <int STREAM>
struct Unzip3Start {  // from packed vectors 0 and 1
  static constexpr int at(int k, int n) { return 3 * k + STREAM < 2 * n ? 3 * k + STREAM : 0; }
};
template <int STREAM>
struct Unzip3End {  // from packed vector 2
  static constexpr int at(int k, int n) { return 3 * k + STREAM < 2 * n ? k : n + 3 * k + STREAM - 2 * n; }
};

// v[0..S-1] one vector of each stream -> the S vectors of s0[0] s1[0] ... s0[1] s1[1] ..., and back.
template <int S, class U, int N>
CK_INLINE void interleave(typename Lanes<U, N>::type* v) {
  using W = typename Lanes<U, N>::type;
  if constexpr (S == 3) {
    const W a = v[0], b = v[1], c = v[2];
    v[0] = pick<Zip3End<0>, U, N>(pick<Zip3Start<0>, U, N>(a, b), c);
    v[1] = pick<Zip3End<1>, U, N>(pick<Zip3Start<1>, U, N>(a, b), c);
    v[2] = pick<Zip3End<2>, U, N>(pick<Zip3Start<2>, U, N>(a, b), c);
  } else if constexpr (S % 2 == 0) {
    W even[S / 2], odd[S / 2];
    for (int i = 0; i < S / 2; ++i) even[i] = v[2 * i], odd[i] = v[2 * i + 1];
    interleave<S / 2, U, N>(even);
    interleave<S / 2, U, N>(odd);
    for (int i = 0; i < S / 2; ++i) {
      v[2 * i] = pick<Zip<0>, U, N>(even[i], odd[i]);
      v[2 * i + 1] = pick<Zip<1>, U, N>(even[i], odd[i]);
    }
  }
}
template <int S, class U, int N>
CK_INLINE void deinterleave(typename Lanes<U, N>::type* v) {
  using W = typename Lanes<U, N>::type;
  if constexpr (S == 3) {
    const W a = v[0], b = v[1], c = v[2];
    v[0] = pick<Unzip3End<0>, U, N>(pick<Unzip3Start<0>, U, N>(a, b), c);
    v[1] = pick<Unzip3End<1>, U, N>(pick<Unzip3Start<1>, U, N>(a, b), c);
    v[2] = pick<Unzip3End<2>, U, N>(pick<Unzip3Start<2>, U, N>(a, b), c);
  } else if constexpr (S % 2 == 0) {
    W even[S / 2], odd[S / 2];
    for (int i = 0; i < S / 2; ++i) {
      even[i] = pick<Unzip<0>, U, N>(v[2 * i], v[2 * i + 1]);
      odd[i] = pick<Unzip<1>, U, N>(v[2 * i], v[2 * i + 1]);
    }
    deinterleave<S / 2, U, N>(even);
    deinterleave<S / 2, U, N>(odd);
    for (int i = 0; i < S / 2; ++i) v[2 * i] = even[i], v[2 * i + 1] = odd[i];
  }
}

// PACK: n elements of each of S streams become n * S interleaved ones; otherwise the other way round.  With vectors of BYTES
// or, where n is shorter, of half that, and so on.  The last vector overlaps the one before: what is written twice gets the
// same value.
template <bool PACK, int S, class U, int BYTES>
CK_INLINE void move_streams(const U* const* streams, U* const* streams_out, const U* packed_in, U* packed, int64_t n) {
  constexpr int N = BYTES / static_cast<int>(sizeof(U));
  if constexpr (N < 2) {
    for (int64_t i = 0; i < n; ++i)
      for (int s = 0; s < S; ++s) {
        if constexpr (PACK) packed[i * S + s] = streams[s][i];
        else streams_out[s][i] = packed_in[i * S + s];
      }
  } else {
    if (n < N) return move_streams<PACK, S, U, BYTES / 2>(streams, streams_out, packed_in, packed, n);
    typename Lanes<U, N>::type v[S];
    for (int64_t i = 0; i < n; i = (i + N < n && i + 2 * N > n) ? n - N : i + N) {
      if constexpr (PACK) {
        for (int s = 0; s < S; ++s) std::memcpy(&v[s], streams[s] + i, BYTES);
        interleave<S, U, N>(v);
        for (int s = 0; s < S; ++s) std::memcpy(packed + i * S + s * N, &v[s], BYTES);
      } else {
        for (int s = 0; s < S; ++s) std::memcpy(&v[s], packed_in + i * S + s * N, BYTES);
        deinterleave<S, U, N>(v);
        for (int s = 0; s < S; ++s) std::memcpy(streams_out[s] + i, &v[s], BYTES);
      }
    }
  }
}

}  // namespace
}  // namespace ck::cpu::CK_ISA

// Tensor cores, sm_80 and later: products of small tiles of halves, and the loads of their operands from shared memory.
// Every lane of a warp takes part; blocks are one-dimensional.  On the CPU lanes exchange their parts by shuffles, so that
// the mapping of lanes to elements is the hardware's and an index that is wrong here is wrong there.
#pragma once
#include <type_traits>

#include "ck_cuda.cuh"

namespace ck {

// d += a b of a [16, 16] and b [16, 8], accumulated in fp32.  With g = lane / 4 and t = lane % 4 a lane holds
//   a[0]: row g, columns 2t and 2t + 1;  a[1]: row g + 8;  a[2], a[3]: as these, columns + 8
//   b[0]: rows 2t and 2t + 1 of column g;  b[1]: rows + 8
//   d[0], d[1]: row g, columns 2t and 2t + 1;  d[2], d[3]: row g + 8
template <class T>
__device__ __forceinline__ void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  static_assert(sizeof(T) == 2, "halves only");
#if defined(CK_HOST_CUDA)
  struct Halves {  // rows g and g + 8 of a, or the upper and lower half of b's column
    T v[2][2];
  };
  const auto pair = [](uint32_t first, uint32_t second) {
    const uint32_t both[2] = {first, second};
    Halves h;
    std::memcpy(static_cast<void*>(&h), both, sizeof h);
    return h;
  };
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  const Halves left = pair(a[0], a[1]), right = pair(a[2], a[3]), column = pair(b[0], b[1]);
  for (int s = 0; s < 4; ++s) {
    const Halves rows[2] = {__shfl_sync(0xffffffffu, left, 4 * g + s), __shfl_sync(0xffffffffu, right, 4 * g + s)};
    for (int j = 0; j < 2; ++j) {
      const Halves with = __shfl_sync(0xffffffffu, column, 4 * (2 * t + j) + s);
      for (int half = 0; half < 2; ++half)
        for (int i = 0; i < 2; ++i)
          for (int e = 0; e < 2; ++e) d[2 * i + j] += to_f(rows[half].v[i][e]) * to_f(with.v[half][e]);
    }
  }
#else
  if constexpr (std::is_same_v<T, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

// Four 8x8 matrices of halves from shared memory: lane l points at row l % 8 of matrix l / 8, 16 bytes, aligned.  Into r[i]
// a lane gets of matrix i the elements (g, 2t) and (g, 2t + 1); TRANSPOSED: (2t, g) and (2t + 1, g).
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
#if defined(CK_HOST_CUDA)
  if (reinterpret_cast<uintptr_t>(row) % 16) ::hostcuda::fail("load_matrices: a row that is not 16-byte aligned");
  const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  for (int i = 0; i < 4; ++i) {
    uint16_t e[2];
    for (int j = 0; j < 2; ++j) {
      const int matrix_row = TRANSPOSED ? 2 * t + j : g, column = TRANSPOSED ? g : 2 * t + j;
      e[j] = static_cast<const uint16_t*>(__shfl_sync(0xffffffffu, row, 8 * i + matrix_row))[column];
    }
    r[i] = e[0] | static_cast<uint32_t>(e[1]) << 16;
  }
#else
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (TRANSPOSED) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  }
#endif
}

}  // namespace ck

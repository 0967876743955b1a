// Portability header: the only thing a kernel file includes.  The same kernel
// source is compiled by nvcc (device) and, with CK_HOST_CUDA, by g++ (fibers).
#pragma once
#if defined(CK_HOST_CUDA)
#include "hostcuda.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif
#include <stdint.h>

#include "../../math/activation.h"
#include "../../math/dtype.h"

namespace ck {
template <class T> struct type_identity {
  using type = T;
};
template <class T> using type_t = typename type_identity<T>::type;

// N elements that travel as one load or store instruction (16 bytes at most).
template <class T, int N> struct alignas(sizeof(T) * N) Vec {
  T v[N];
};

template <class T> CK_HD float to_f(T x);
template <> CK_HD float to_f<float>(float x) { return x; }
template <> CK_HD float to_f<__half>(__half x) { return __half2float(x); }
template <> CK_HD float to_f<__nv_bfloat16>(__nv_bfloat16 x) { return __bfloat162float(x); }
template <class T> CK_HD T from_f(float x);
template <> CK_HD float from_f<float>(float x) { return x; }
template <> CK_HD __half from_f<__half>(float x) { return __float2half_rn(x); }
template <> CK_HD __nv_bfloat16 from_f<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// Calls f(T()) with the CUDA element type that d names; fp64 has no CUDA kernels.
template <class F>
inline cudaError_t with_cuda_dtype(Dtype d, F&& f) {
  switch (d) {
    case Dtype::f32: return f(float());
    case Dtype::f16: return f(__half());
    case Dtype::bf16: return f(__nv_bfloat16());
    default: return cudaErrorInvalidValue;
  }
}

// Of the current device; asked for once, as all devices of a machine are taken to be alike.
inline int multiprocessors() {
  static const int count = [] {
    int device = 0, value = 0;
    const bool known = cudaGetDevice(&device) == cudaSuccess &&
                       cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device) == cudaSuccess;
    return known && value > 0 ? value : 132;
  }();
  return count;
}
}  // namespace ck

#if !defined(CK_HOST_CUDA)
// Static shared memory: CK_SHARED(name, float[8][34]);
#define CK_SHARED(name, ...) __shared__ ::ck::type_t<__VA_ARGS__> name
// Dynamic shared memory as a T* of the size given at launch.
#define CK_DYN_SHARED(name, T)                               \
  extern __shared__ __align__(16) unsigned char ck_dyn_sh[]; \
  T* name = reinterpret_cast<T*>(ck_dyn_sh)

namespace ck {
template <class... P, class... A>
inline cudaError_t launch(void (*k)(P...), dim3 grid, dim3 block, size_t smem, cudaStream_t s, A&&... a) {
  k<<<grid, block, smem, s>>>(static_cast<P>(a)...);
  return cudaGetLastError();
}
}  // namespace ck
#endif

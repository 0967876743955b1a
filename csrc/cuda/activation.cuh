// Element-wise activation kernels: memory-bound, 2e bytes per element forward and 3e backward.
//
// A thread owns kVectors 16-byte vectors, blockDim.x apart, all loaded before the first is used, so that two loads are
// in flight per thread; a warp's accesses cover 512 contiguous bytes.  The grid covers the tensor once.  Elements after
// the last full vector go to a scalar tail in the last block.
#pragma once
#include "device/ck_cuda.cuh"

namespace ck::cuda {

constexpr int kActivationThreads = 256;
constexpr int kActivationVectors = 2;

// BACKWARD: out = grad * act'(x); otherwise out = act(x).
template <class T, Act A, bool BACKWARD>
__global__ void __launch_bounds__(kActivationThreads)
    activation_kernel(const T* __restrict__ x, const T* __restrict__ grad, T* __restrict__ out, int64_t n,
                      float slope) {
  constexpr int N = 16 / sizeof(T);
  using Vector = Vec<T, N>;
  auto one = [&](float v, float g) { return BACKWARD ? g * activate_grad<A>(v, slope) : activate<A>(v, slope); };

  const int64_t vectors = n / N;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * (kActivationThreads * kActivationVectors) + threadIdx.x;
  Vector xs[kActivationVectors], gs[kActivationVectors];
#pragma unroll
  for (int j = 0; j < kActivationVectors; ++j) {
    const int64_t i = first + j * kActivationThreads;
    if (i < vectors) {
      xs[j] = reinterpret_cast<const Vector*>(x)[i];
      if constexpr (BACKWARD) gs[j] = reinterpret_cast<const Vector*>(grad)[i];
    }
  }
#pragma unroll
  for (int j = 0; j < kActivationVectors; ++j) {
    const int64_t i = first + j * kActivationThreads;
    if (i < vectors) {
      Vector r;
#pragma unroll
      for (int k = 0; k < N; ++k) r.v[k] = from_f<T>(one(to_f(xs[j].v[k]), BACKWARD ? to_f(gs[j].v[k]) : 0.f));
      reinterpret_cast<Vector*>(out)[i] = r;
    }
  }
  const int64_t tail = vectors * N + threadIdx.x;  // fewer than N elements
  if (blockIdx.x == gridDim.x - 1 && tail < n)
    out[tail] = from_f<T>(one(to_f(x[tail]), BACKWARD ? to_f(grad[tail]) : 0.f));
}

template <bool BACKWARD>
cudaError_t launch_activation(Dtype dtype, const void* x, const void* grad, void* out, int64_t n, Act act, double slope,
                              cudaStream_t s) {
  if (n == 0) return cudaSuccess;
  return with_cuda_dtype(dtype, [&](auto t) {
    using T = decltype(t);
    constexpr int64_t per_block = int64_t(kActivationThreads) * kActivationVectors * (16 / sizeof(T));
    const auto blocks = static_cast<unsigned>((n + per_block - 1) / per_block);
    return with_act(act, [&](auto a) {
      return launch(activation_kernel<T, a(), BACKWARD>, dim3(blocks), dim3(kActivationThreads), 0, s,
                    static_cast<const T*>(x), static_cast<const T*>(grad), static_cast<T*>(out), n,
                    static_cast<float>(slope));
    });
  });
}

}  // namespace ck::cuda

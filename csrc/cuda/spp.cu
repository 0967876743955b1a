#include "spp.cuh"

#include "spp.h"

namespace ck::cuda {
namespace {

// The channels that a tile in channels_last takes: as many as shared memory holds of `bytes` an element, 32 bytes of x for
// whole sectors if it can be; 0 if not even one.
int spp_lanes(const SppShape& s, int64_t element_size, int64_t bytes) {
  int64_t lanes = s.channels_last ? 32 / element_size : 1;
  while (lanes > 0 && (lanes > s.C || s.H * s.W > kSppSharedBytes / bytes / lanes)) lanes /= 2;
  return static_cast<int>(lanes);
}

struct SppTiles {
  dim3 grid, block;
  size_t shared;

  SppTiles(const SppShape& s, int lanes, int64_t bytes) {
    const int64_t elements = s.H * s.W * lanes;
    grid = dim3(static_cast<unsigned>(s.N * ((s.C + lanes - 1) / lanes)));
    block = dim3(static_cast<unsigned>(elements < kSppThreads ? (elements + 31) / 32 * 32 : kSppThreads));
    shared = static_cast<size_t>(elements * bytes);
  }
};

// f(grid, block) for the kernels of maps of any size.
template <class F>
cudaError_t spp_any(const SppShape& s, F&& f) {
  if (SppPlace::unit(s) > INT32_MAX) return cudaErrorInvalidValue;
  const int64_t units = s.elements() / SppPlace::unit(s);
  return f(dim3(static_cast<unsigned>(units * SppPlace::blocks(s))), dim3(kSppThreads));
}

}  // namespace

cudaError_t spp(Dtype d, const SppShape& s, const void* x, void* y, cudaStream_t stream) {
  if (s.elements() == 0) return cudaSuccess;
  return with_cuda_dtype(d, [&](auto t) {
    using T = decltype(t);
    using K = SppKey<T>;
    const auto* from = static_cast<const K*>(x);
    auto* to = static_cast<K*>(y);
    constexpr int64_t bytes = 2 * sizeof(K);
    const int lanes = spp_lanes(s, sizeof(T), bytes);
    if (lanes == 0)
      return spp_any(
          s, [&](dim3 grid, dim3 block) { return launch(spp_any_kernel<T>, grid, block, 0, stream, s, from, to); });
    const SppTiles tiles(s, lanes, bytes);
    return launch(spp_tile_kernel<T>, tiles.grid, tiles.block, tiles.shared, stream, s, lanes, from, to);
  });
}

cudaError_t spp_backward(Dtype d, const SppShape& s, const void* grad, const void* x, void* dx, cudaStream_t stream) {
  if (s.elements() == 0) return cudaSuccess;
  return with_cuda_dtype(d, [&](auto t) {
    using T = decltype(t);
    const auto* incoming = static_cast<const T*>(grad);
    const auto* from = static_cast<const SppKey<T>*>(x);
    auto* to = static_cast<T*>(dx);
    constexpr int64_t bytes = 2 * sizeof(SppPair<T>) + sizeof(float) + 1;
    const int lanes = spp_lanes(s, sizeof(T), bytes);
    if (lanes == 0)
      return spp_any(s, [&](dim3 grid, dim3 block) {
        return launch(spp_any_backward_kernel<T>, grid, block, 0, stream, s, incoming, from, to);
      });
    const SppTiles tiles(s, lanes, bytes);
    return launch(spp_tile_backward_kernel<T>, tiles.grid, tiles.block, tiles.shared, stream, s, lanes, incoming, from,
                  to);
  });
}

}  // namespace ck::cuda

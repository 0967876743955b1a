#include "squeeze_excite.cuh"

#include "squeeze_excite.h"

namespace ck::cuda {

int64_t squeeze_excite_workspace(const SqueezeExciteShape& s, bool backward) {
  const int64_t nc = s.N * s.C, nr = s.N * s.R, sums = se_strips(s) * nc;
  return backward ? 2 * sums + 3 * nc + 2 * nr : sums + nc + nr;
}

namespace {

// What both directions begin with: hidden = w1 mean + b1 and gate_in = w2 act(hidden) + b2.
template <class T>
cudaError_t layers(const SqueezeExciteShape& s, const SeInput& mean, const T* w1, const T* b1, const T* w2, const T* b2,
                   float* hidden, float* gate_in, cudaStream_t stream) {
  const cudaError_t e = launch_se_layer(w1, b1, mean, hidden, s.N, s.C, s.R, stream);
  if (e != cudaSuccess) return e;
  const SeInput h{hidden, 1, 1.f, s.act, static_cast<float>(s.slope)};
  return launch_se_layer(w2, b2, h, gate_in, s.N, s.R, s.C, stream);
}

}  // namespace

cudaError_t squeeze_excite_forward(Dtype dtype, const SqueezeExciteShape& s, const void* x, const void* w1,
                                   const void* b1, const void* w2, const void* b2, void* y, float* workspace,
                                   cudaStream_t stream) {
  if (s.N == 0) return cudaSuccess;
  return with_cuda_dtype(dtype, [&](auto t) {
    using T = decltype(t);
    const auto p = [](const void* q) { return static_cast<const T*>(q); };
    float *sums = workspace, *gate_in = sums + se_strips(s) * s.N * s.C, *hidden = gate_in + s.N * s.C;
    const SeInput mean{sums, se_strips(s), 1.f / static_cast<float>(s.HW), Act::identity, 0.f};
    cudaError_t e = launch_se_sums<T, false>(s, p(x), nullptr, sums, nullptr, stream);
    if (e == cudaSuccess) e = layers(s, mean, p(w1), p(b1), p(w2), p(b2), hidden, gate_in, stream);
    if (e == cudaSuccess) e = launch_se_scale<T, false>(s, p(x), gate_in, nullptr, static_cast<T*>(y), stream);
    return e;
  });
}

cudaError_t squeeze_excite_backward(Dtype dtype, const SqueezeExciteShape& s, const void* grad, const void* x,
                                    const void* w1, const void* b1, const void* w2, const void* b2, void* dx, void* dw1,
                                    void* db1, void* dw2, void* db2, float* workspace, cudaStream_t stream) {
  return with_cuda_dtype(dtype, [&](auto t) {
    using T = decltype(t);
    const auto p = [](const void* q) { return static_cast<const T*>(q); };
    const auto m = [](void* q) { return static_cast<T*>(q); };
    const int64_t nc = s.N * s.C;
    const int strips = se_strips(s);
    float *sums = workspace, *dots = sums + strips * nc, *gate_in = dots + strips * nc, *dgate = gate_in + nc;
    float *dmean = dgate + nc, *hidden = dmean + nc, *dhidden = hidden + s.N * s.R;
    const float slope = static_cast<float>(s.slope), scale = 1.f / static_cast<float>(s.HW);
    const SeInput mean{sums, strips, scale, Act::identity, 0.f}, dot{dots, strips, 1.f, Act::identity, 0.f};
    const SeInput h{hidden, 1, 1.f, s.act, slope};
    const dim3 block(kSeThreads);
    const auto blocks = [](int64_t n, int64_t per) { return static_cast<unsigned>(se_blocks(n, per)); };
    cudaError_t e = cudaSuccess;
    if (s.N > 0) {
      e = launch_se_sums<T, true>(s, p(x), p(grad), sums, dots, stream);
      if (e == cudaSuccess) e = layers(s, mean, p(w1), p(b1), p(w2), p(b2), hidden, gate_in, stream);
      if (e == cudaSuccess)
        e = launch(se_gate_gradient_kernel, dim3(blocks(nc, kSeThreads)), block, 0, stream, dot, gate_in, dgate, nc,
                   s.gate);
      if (e == cudaSuccess)
        e = launch(se_layer_transposed_kernel<T>, dim3(blocks(s.R, 32), blocks(s.N, kSeImages)), block, 0, stream,
                   p(w2), dgate, hidden, dhidden, s.N, s.R, s.C, 1.f, s.act, slope);
      if (e == cudaSuccess)
        e = launch(se_layer_transposed_kernel<T>, dim3(blocks(s.C, 32), blocks(s.N, kSeImages)), block, 0, stream,
                   p(w1), dhidden, nullptr, dmean, s.N, s.C, s.R, scale, Act::identity, 0.f);
      if (e == cudaSuccess) e = launch_se_scale<T, true>(s, p(grad), gate_in, dmean, m(dx), stream);
    }
    const dim3 weights(blocks(s.R * s.C, kSeThreads));
    if (e == cudaSuccess)
      e = launch(se_weight_gradient_kernel<T>, weights, block, 0, stream, dhidden, mean, m(dw1), m(db1), s.N, s.C, s.R);
    if (e == cudaSuccess)
      e = launch(se_weight_gradient_kernel<T>, weights, block, 0, stream, dgate, h, m(dw2), m(db2), s.N, s.R, s.C);
    return e;
  });
}

}  // namespace ck::cuda

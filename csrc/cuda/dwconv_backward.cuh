// Gradient of the depthwise convolution towards its input, in gather form: every dx is written once, by one thread.
// Stride 1 is the forward convolution with the filter rotated by 180 degrees.  Stride 2 is the sliding window of
// dwconv_tile.cuh at Step::up2: the four phases of dx use the sub-filters that reach them, without a test per tap.
#pragma once
#include "dwconv.cuh"
#include "dwconv_backward.h"

namespace ck::cuda {

// Any kernel size, stride, dilation and layout; a thread per dx, in memory order.
template <class T>
__global__ void __launch_bounds__(256)
    dwconv_grad_input_any_kernel(const T* __restrict__ grad, const T* __restrict__ weight, T* __restrict__ dx,
                                 const DwConvShape s) {
  const int64_t k = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (k >= s.N * s.C * s.H * s.W) return;
  const int64_t pixel = s.channels_last ? k / s.C : k, column = pixel % s.W, row = pixel / s.W % s.H;
  const int64_t outer = pixel / (s.W * s.H), c = s.channels_last ? k % s.C : outer % s.C;
  const int64_t col_step = s.channels_last ? s.C : 1, row_step = col_step * s.Q;
  const T* g = grad + (s.channels_last ? outer * s.P * s.Q * s.C + c : outer * s.P * s.Q);
  float sum = 0.f;
  for (int i = 0; i < s.kh; ++i) {
    const int64_t h = row + s.top - static_cast<int64_t>(i) * s.dh, p = h / s.sh;
    if (h < 0 || p * s.sh != h || p >= s.P) continue;
    for (int j = 0; j < s.kw; ++j) {
      const int64_t w = column + s.left - static_cast<int64_t>(j) * s.dw, q = w / s.sw;
      if (w < 0 || q * s.sw != w || q >= s.Q) continue;
      sum += to_f(g[p * row_step + q * col_step]) * to_f(weight[(c * s.kh + i) * s.kw + j]);
    }
  }
  dx[k] = from_f<T>(sum);
}

// The stride-2 window kernel of filter size K, if the layout and channel count have one.
template <class T, int K>
bool launch_up2(const void* grad, const void* weight, void* dx, const DwConvShape& s, cudaStream_t stream,
                cudaError_t& error) {
  using G = Taps<K, Step::up2>;
  DwConvTask a = {};
  a.x = grad, a.weight = weight, a.y = dx;
  a.s = {s.N, s.C, s.P, s.Q, s.H, s.W, K, K, 2, 2, 1, 1, s.top, s.left, s.channels_last};
  const int row0 = s.top / 2, col0 = s.left / 2;  // the first pair of rows or columns of the padded dx that is needed
  a.in_row = row0, a.out_row = 2 * row0 - s.top;
  a.in_col = col0 - (G::kHalf - 1), a.out_col = 2 * col0 - s.left;
  a.steps = static_cast<int>((s.top + s.H - 1) / 2) - row0 + 1;
  const int columns = static_cast<int>((s.left + s.W - 1) / 2) - col0 + 1;
  return with_window_kernel<T, K, Step::up2>(
      a, columns, [&](auto kernel, const Launch& l) { error = launch_planned(kernel, l, a, stream); });
}

template <class T>
cudaError_t launch_grad_input(const void* grad, const void* weight, void* dx, const DwConvShape& s,
                              cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  if (s.kh == s.kw && s.sh == 2 && s.sw == 2 && s.dh == 1 && s.dw == 1) {
    if (s.kh == 3 && launch_up2<T, 3>(grad, weight, dx, s, stream, error)) return error;
    if (s.kh == 5 && launch_up2<T, 5>(grad, weight, dx, s, stream, error)) return error;
    if (s.kh == 7 && launch_up2<T, 7>(grad, weight, dx, s, stream, error)) return error;
  }
  const int64_t blocks = (s.N * s.C * s.H * s.W + 255) / 256;
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  return launch(dwconv_grad_input_any_kernel<T>, dim3(static_cast<unsigned>(blocks)), dim3(256), 0, stream,
                static_cast<const T*>(grad), static_cast<const T*>(weight), static_cast<T*>(dx), s);
}

}  // namespace ck::cuda

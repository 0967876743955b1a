// Launching depthwise convolutions: the choice of kernel.
#pragma once
#include "dwconv.h"
#include "dwconv_any.cuh"
#include "dwconv_nchw.cuh"
#include "dwconv_nhwc.cuh"

namespace ck::cuda {

// Calls f(integral_constant<int, K>, integral_constant<Step, D>) for the square filters that have kernels; else returns
// no().
template <class F, class No>
auto with_taps(const DwConvShape& s, F&& f, No&& no) {
  auto with_step = [&](auto k) {
    if (s.sh == 1) return f(k, std::integral_constant<Step, Step::s1>());
    return f(k, std::integral_constant<Step, Step::s2>());
  };
  if (s.kh == s.kw && s.dh == 1 && s.dw == 1 && s.sh == s.sw && s.sh <= 2) {
    switch (s.kh) {
      case 3: return with_step(std::integral_constant<int, 3>());
      case 5: return with_step(std::integral_constant<int, 5>());
      case 7: return with_step(std::integral_constant<int, 7>());
    }
  }
  return no();
}

template <class T, int K, Step D, int V, class F>
bool with_nhwc_kernel(DwConvTask& a, int columns, F&& f) {
  const Launch launch = plan_nhwc<K, D, V>(a, columns, sizeof(T), multiprocessors());
  if (launch.blocks == 0) return false;
  if constexpr (D != Step::up2) {
    if (a.partials) {
      f(dwconv_nhwc_kernel<T, K, D, V, true>, launch);
      return true;
    }
  }
  f(dwconv_nhwc_kernel<T, K, D, V, false>, launch);
  return true;
}

// Plans a sliding-window kernel and calls f(kernel, launch), if there is one for this layout, channel count and alignment.
template <class T, int K, Step D, class F>
bool with_window_kernel(DwConvTask& a, int columns, F&& f) {
  auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  if (!aligned(a.x) || !aligned(a.y) || !aligned(a.residual)) return false;
  if (a.s.channels_last) {
    if constexpr (K == 3)
      if (a.s.C % 4 == 0) return with_nhwc_kernel<T, 3, D, 4>(a, columns, f);
    return a.s.C % 2 == 0 && with_nhwc_kernel<T, K, D, 2>(a, columns, f);
  }
  const Launch launch = plan_nchw<K, D>(a, columns, sizeof(T));
  if (launch.blocks == 0) return false;
  f(dwconv_nchw_kernel<T, K, D>, launch);
  return true;
}

// Plans the kernel for these arguments and calls f(kernel, launch).
template <class T, class F>
void with_dwconv_kernel(DwConvTask& a, F&& f) {
  const bool found = with_taps(
      a.s,
      [&](auto k, auto d) {
        using G = Taps<k(), d()>;
        a.in_row = (G::kFlight - 1) * G::kIn - a.s.top, a.in_col = -a.s.left;
        a.steps = static_cast<int>(a.s.P);
        return with_window_kernel<T, k(), d()>(a, static_cast<int>(a.s.Q), f);
      },
      [] { return false; });
  if (!found) f(dwconv_any_kernel<T>, plan_any(a));
}

// Plans and, unless plan_only, launches; leaves the plan in a.
template <class T>
cudaError_t launch_dwconv(DwConvTask& a, bool plan_only, cudaStream_t stream) {
  cudaError_t error = cudaErrorInvalidValue;
  with_dwconv_kernel<T>(
      a, [&](auto kernel, const Launch& l) { error = plan_only ? cudaSuccess : launch_planned(kernel, l, a, stream); });
  return error;
}

// Instantiated in dwconv_f32.cu, dwconv_f16.cu and dwconv_bf16.cu, which can be compiled side by side.
extern template cudaError_t launch_dwconv<float>(DwConvTask&, bool, cudaStream_t);
extern template cudaError_t launch_dwconv<__half>(DwConvTask&, bool, cudaStream_t);
extern template cudaError_t launch_dwconv<__nv_bfloat16>(DwConvTask&, bool, cudaStream_t);

}  // namespace ck::cuda

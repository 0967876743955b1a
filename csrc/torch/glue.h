// Everything the op files need from PyTorch's stable ABI (torch >= 2.11), and nothing else includes torch.
//
// An op file csrc/torch/<op>.cpp defines one native op on two devices:
//
//   CK_NATIVE_OPS(m) { m.def("activation(Tensor x, int act, float slope) -> Tensor"); }
//   CK_CPU_IMPL(m)  { cpu_kernel<&activation_cpu>(m, "activation"); }
//   CK_CUDA_IMPL(m) { cuda_kernel<&activation_cuda>(m, "activation"); }
//
// Native ops are internal (torch.ops.cnnkernels_native.*): they take dense tensors of one device.  They assert what would
// otherwise read out of bounds; for ops with `direct` (cnnkernels/_op.py) that is all that Python's check rejects, and the
// layouts that kernels do not read.
//
// With CK_HOST_CUDA (tests only) the same file registers the CUDA half alone, for CPU tensors, as
// torch.ops.cnnkernels_hostcuda.*: the CUDA sources then run on the CPU, one fiber per CUDA thread.
#pragma once
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <tuple>
#include <vector>

#include "../cpu/parallel.h"
#include "../math/activation.h"
#include "../math/dtype.h"
#ifndef CK_HOST_CUDA
#include "direct.h"
#endif

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
#include <cuda_runtime_api.h>
#endif

#define CK_CONCAT_(a, b) a##b
#define CK_CONCAT(a, b) CK_CONCAT_(a, b)

#if defined(CK_HOST_CUDA)
#define CK_NATIVE_OPS(m) STABLE_TORCH_LIBRARY_FRAGMENT(cnnkernels_hostcuda, m)
#define CK_CPU_IMPL(m) \
  [[maybe_unused]] static void CK_CONCAT(ck_no_cpu_, __LINE__)(torch::stable::detail::StableLibrary & m)
#define CK_CUDA_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(cnnkernels_hostcuda, CPU, m)
#else
#define CK_NATIVE_OPS(m) STABLE_TORCH_LIBRARY_FRAGMENT(cnnkernels_native, m)
#define CK_CPU_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(cnnkernels_native, CPU, m)
#define CK_CUDA_IMPL(m) STABLE_TORCH_LIBRARY_IMPL(cnnkernels_native, CUDA, m)
#endif

namespace ck::glue {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return Dtype::f32;
    case ScalarType::Double: return Dtype::f64;
    case ScalarType::Half: return Dtype::f16;
    case ScalarType::BFloat16: return Dtype::bf16;
    default: STD_TORCH_CHECK(false, "cnnkernels_native: float32, float64, float16 or bfloat16 expected");
  }
}

inline int element_size(const Tensor& t) {  // bytes
  switch (dtype_of(t)) {
    case Dtype::f64: return 8;
    case Dtype::f32: return 4;
    default: return 2;
  }
}

// The dtype of per-channel parameters, statistics and accumulators that go with x.
inline ScalarType acc_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// [N, C, H, W] stored as N, H, W, C; the stride of a size of 1 means nothing.  "Channels last" is what is not NCHW also.
inline bool is_dense_nhwc(const Tensor& t) {
  const int64_t c = t.size(1), h = t.size(2), w = t.size(3);
  return (c == 1 || t.stride(1) == 1) && (w == 1 || t.stride(3) == c) && (h == 1 || t.stride(2) == w * c) &&
         (t.size(0) == 1 || t.stride(0) == h * w * c);
}
inline bool is_channels_last(const Tensor& t) { return t.dim() == 4 && !t.is_contiguous() && is_dense_nhwc(t); }

// The layout of x, which must be dense in one of the two: Python's ops copy anything else first (_layout.dense).
inline bool dense_channels_last(const Tensor& x) {
  const bool last = is_channels_last(x);
  STD_TORCH_CHECK(last || x.is_contiguous(), "cnnkernels_native: a dense NCHW or channels_last tensor expected");
  return last;
}

// [N, C, H, W] that is dense in the given layout.
inline void check_layout(const Tensor& t, bool channels_last) {
  STD_TORCH_CHECK(t.numel() == 0 || (channels_last ? is_dense_nhwc(t) : t.is_contiguous()),
                  "cnnkernels_native: two tensors of one layout expected");
}

// t has x's sizes, dtype and strides, as far as these mean anything.
inline void check_same(const Tensor& t, const Tensor& x) {
  bool same = t.dim() == x.dim() && t.scalar_type() == x.scalar_type();
  const bool empty = x.numel() == 0;
  for (int64_t i = 0; same && i < x.dim(); ++i)
    same = t.size(i) == x.size(i) && (t.size(i) == 1 || empty || t.stride(i) == x.stride(i));
  STD_TORCH_CHECK(same, "cnnkernels_native: two tensors of one shape, dtype and layout expected");
}

// A per-channel parameter in x's accumulation dtype.
inline void check_vector(const Tensor& t, const Tensor& x, int64_t channels) {
  STD_TORCH_CHECK(t.dim() == 1 && t.size(0) == channels && t.scalar_type() == acc_type(x) && t.is_contiguous(),
                  "cnnkernels_native: [C] in the accumulation dtype expected");
}
inline void check_vector(const std::optional<Tensor>& t, const Tensor& x, int64_t channels) {
  if (t) check_vector(*t, x, channels);
}

// Uninitialised tensors on x's device.  The C shim, because torch::stable::empty goes through the boxed dispatcher.
inline Tensor empty_strided(const Tensor& x, const std::vector<int64_t>& size, const std::vector<int64_t>& stride,
                            ScalarType dtype) {
  int32_t device_type = 0, device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &device_index));
  AtenTensorHandle made = nullptr;
  const int64_t dims = static_cast<int64_t>(size.size());
#ifndef CK_HOST_CUDA
  if (dtype == ScalarType::Float && device_type == aoti_torch_device_type_cpu()) {
    int64_t bytes = sizeof(float);
    for (const int64_t n : size) bytes *= n;
    if (void* const memory = bytes > 0 ? direct::memory_between_steps(bytes) : nullptr) {
      TORCH_ERROR_CODE_CHECK(aoti_torch_create_tensor_from_blob(
          memory, dims, size.data(), stride.data(), 0, static_cast<int32_t>(dtype), device_type, device_index, &made));
      return Tensor(made);
    }
  }
#endif
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dims, size.data(), stride.data(), static_cast<int32_t>(dtype),
                                                  device_type, device_index, &made));
  return Tensor(made);
}

// Of another shape and/or dtype than x; 4-d ones may ask for channels_last.
inline Tensor empty(const Tensor& x, const std::vector<int64_t>& size, ScalarType dtype, bool channels_last = false) {
  const size_t dims = size.size();
  std::vector<int64_t> stride(dims);
  if (channels_last) {
    stride[1] = 1, stride[3] = size[1], stride[2] = size[3] * stride[3], stride[0] = size[2] * stride[2];
  } else {
    int64_t step = 1;
    for (size_t i = dims; i-- > 0; step *= std::max<int64_t>(size[i], 1)) stride[i] = step;
  }
  return empty_strided(x, size, stride, dtype);
}

// Like x, which is dense in some order of its dimensions.
inline Tensor uninitialised_like(const Tensor& x) {
  std::vector<int64_t> size(x.dim()), stride(x.dim());
  for (int64_t i = 0; i < x.dim(); ++i) size[i] = x.size(i), stride[i] = x.stride(i);
  return empty_strided(x, size, stride, x.scalar_type());
}

template <class T = void>
inline const T* ptr(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}
template <class T = void>
inline const T* ptr(const std::optional<Tensor>& t) {
  return t ? static_cast<const T*>(t->const_data_ptr()) : nullptr;
}
template <class T = void>
inline T* mut(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

inline void check_eps(double eps) {
  STD_TORCH_CHECK(eps >= 0 && std::isfinite(eps), "cnnkernels_native: eps must be at least 0 and finite");
}

inline Act act_of(int64_t act) {
  STD_TORCH_CHECK(act >= 0 && act <= static_cast<int64_t>(Act::hard_sigmoid), "cnnkernels_native: unknown activation");
  return static_cast<Act>(act);
}

// Registers a kernel with the dispatcher and, except in the tests' CUDA-on-CPU build, as a direct function.
template <auto Kernel>
void cpu_kernel(torch::stable::detail::StableLibrary& m, const char* name) {
  m.impl(name, TORCH_BOX(Kernel));
#ifndef CK_HOST_CUDA
  direct::define<Kernel>(name);
#endif
}
template <auto Kernel>
void cuda_kernel(torch::stable::detail::StableLibrary& m, const char* name) {
  m.impl(name, TORCH_BOX(Kernel));
#ifndef CK_HOST_CUDA
  direct::define_cuda<Kernel>(name);
#endif
}

// The same of a kernel whose first argument is an image: also as a step of a plan (direct.h).
template <auto Kernel>
void cpu_step(torch::stable::detail::StableLibrary& m, const char* name) {
  cpu_kernel<Kernel>(m, name);
#ifndef CK_HOST_CUDA
  direct::define_bound(name, Kernel);
#endif
}

// PyTorch's own thread pool.
inline cpu::Pool torch_pool() {
  return {[](int64_t b, int64_t e, int64_t grain, cpu::Pool::Body body, void* c) {
            torch::stable::parallel_for(b, e, grain, [&](int64_t from, int64_t to) { body(from, to, c); });
          },
          static_cast<int>(torch::stable::get_num_threads())};
}

#if defined(CK_HOST_CUDA)
struct CudaCall {
  explicit CudaCall(const Tensor&) {}
  cudaStream_t stream = nullptr;
};
#elif defined(CK_CUDA)
cudaStream_t current_stream(int32_t device);  // cuda_stream.cpp

// Makes the tensor's device current while it lives and names PyTorch's current stream there.
class CudaCall {
 public:
  explicit CudaCall(const Tensor& t) : stream(current_stream(t.get_device_index())), guard_(t.get_device_index()) {}
  cudaStream_t stream;

 private:
  torch::stable::accelerator::DeviceGuard guard_;
};
#endif

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
inline void check_launch(cudaError_t e, const char* op) {
  STD_TORCH_CHECK(e == cudaSuccess, "cnnkernels::", op, ": CUDA error ", static_cast<int>(e), " at launch");
}
#endif

}  // namespace ck::glue

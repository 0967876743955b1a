#include "../cpu/max_pool.h"

#include "glue.h"

namespace ck::glue {
namespace {

// As torch.nn.MaxPool2d counts them: with ceil_mode a last window that begins inside the image or before it.
[[maybe_unused]] int64_t windows(int64_t size, int64_t kernel, int64_t stride, int64_t padding, bool ceil_mode) {
  const int64_t n = (size + 2 * padding - kernel + (ceil_mode ? stride - 1 : 0)) / stride + 1;
  return ceil_mode && (n - 1) * stride >= size + padding ? n - 1 : n;
}

// kernel, stride, padding: (vertical, horizontal).
[[maybe_unused]] Tensor max_pool_cpu(const Tensor& x, const std::vector<int64_t>& kernel,
                                     const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                     bool ceil_mode) {
  STD_TORCH_CHECK(x.dim() == 4 && is_dense_nhwc(x) && kernel.size() == 2 && stride.size() == 2 && padding.size() == 2,
                  "max_pool: a channels_last x and pairs of sizes expected");
  for (int i = 0; i < 2; ++i)
    STD_TORCH_CHECK(kernel[i] > 0 && kernel[i] < 65536 && stride[i] > 0 && stride[i] < 65536 && padding[i] >= 0 &&
                        2 * padding[i] <= kernel[i] && kernel[i] <= x.size(2 + i) + 2 * padding[i],
                    "max_pool: a window does not fit");
  const int64_t P = windows(x.size(2), kernel[0], stride[0], padding[0], ceil_mode),
                Q = windows(x.size(3), kernel[1], stride[1], padding[1], ceil_mode);
  Tensor y = empty(x, {x.size(0), x.size(1), P, Q}, x.scalar_type(), true);
  const auto narrow = [](int64_t n) { return static_cast<int>(n); };
  if (y.numel() > 0)
    cpu::max_pool({dtype_of(x), ptr(x), mut(y), x.size(0), x.size(1), x.size(2), x.size(3), P, Q, narrow(kernel[0]),
                   narrow(kernel[1]), narrow(stride[0]), narrow(stride[1]), narrow(padding[0]), narrow(padding[1]),
                   torch_pool()});
  return y;
}

}  // namespace

CK_NATIVE_OPS(m) { m.def("max_pool(Tensor x, int[] kernel, int[] stride, int[] padding, bool ceil_mode) -> Tensor"); }
CK_CPU_IMPL(m) { cpu_step<&max_pool_cpu>(m, "max_pool"); }

}  // namespace ck::glue

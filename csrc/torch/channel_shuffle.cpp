#include "../cpu/channel_shuffle.h"

#include "../cuda/channel_shuffle.h"
#include "glue.h"

namespace ck::glue {
namespace {

using Pair = std::tuple<Tensor, Tensor>;

ShuffleShape shape_of(const Tensor& a, int64_t channels_b, int64_t channels_left, int64_t groups) {
  STD_TORCH_CHECK(a.dim() == 4, "channel_shuffle: [N, C, H, W] expected");
  const int64_t channels = a.size(1) + channels_b;
  STD_TORCH_CHECK(groups > 0 && channels % groups == 0, "channel_shuffle: groups must divide the channels");
  STD_TORCH_CHECK(channels_left >= 0 && channels_left <= channels, "channel_shuffle: left has too many channels");
  return {a.size(0), a.size(2) * a.size(3), {a.size(1), channels_b}, {channels_left, channels - channels_left},
          groups,    element_size(a),       dense_channels_last(a)};
}

// run(shape, in, out) on one tensor, and on two.
template <class F>
Tensor shuffle(const Tensor& x, int64_t groups, F&& run) {
  const ShuffleShape shape = shape_of(x, 0, x.dim() == 4 ? x.size(1) : 0, groups);
  Tensor y = empty(x, {x.size(0), x.size(1), x.size(2), x.size(3)}, x.scalar_type(), shape.channels_last);
  const void* in[2] = {ptr(x), nullptr};
  void* out[2] = {mut(y), nullptr};
  run(shape, in, out);
  return y;
}

template <class F>
Pair concat_shuffle_split(const Tensor& a, const Tensor& b, int64_t channels_left, int64_t groups, F&& run) {
  STD_TORCH_CHECK(b.dim() == 4 && b.size(0) == a.size(0) && b.size(2) == a.size(2) && b.size(3) == a.size(3) &&
                      b.scalar_type() == a.scalar_type(),
                  "concat_shuffle_split: a and b must match");
  const ShuffleShape shape = shape_of(a, b.size(1), channels_left, groups);
  check_layout(b, shape.channels_last);
  const auto half = [&](int k) {
    return empty(a, {a.size(0), shape.out_channels[k], a.size(2), a.size(3)}, a.scalar_type(), shape.channels_last);
  };
  Pair halves(half(0), half(1));
  const void* in[2] = {ptr(a), ptr(b)};
  void* out[2] = {mut(std::get<0>(halves)), mut(std::get<1>(halves))};
  run(shape, in, out);
  return halves;
}

void run_cpu(const ShuffleShape& s, const void* const in[2], void* const out[2]) {
  cpu::channel_shuffle({s, {in[0], in[1]}, {out[0], out[1]}, torch_pool()});
}

[[maybe_unused]] Tensor channel_shuffle_cpu(const Tensor& x, int64_t groups) { return shuffle(x, groups, run_cpu); }

[[maybe_unused]] Pair concat_shuffle_split_cpu(const Tensor& a, const Tensor& b, int64_t channels_left,
                                               int64_t groups) {
  return concat_shuffle_split(a, b, channels_left, groups, run_cpu);
}

#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
Tensor channel_shuffle_cuda(const Tensor& x, int64_t groups) {
  const CudaCall call(x);
  return shuffle(x, groups, [&](const ShuffleShape& s, const void* const* in, void* const* out) {
    check_launch(cuda::channel_shuffle(s, in, out, call.stream), "channel_shuffle");
  });
}

Pair concat_shuffle_split_cuda(const Tensor& a, const Tensor& b, int64_t channels_left, int64_t groups) {
  const CudaCall call(a);
  const auto run = [&](const ShuffleShape& s, const void* const* in, void* const* out) {
    check_launch(cuda::channel_shuffle(s, in, out, call.stream), "concat_shuffle_split");
  };
  return concat_shuffle_split(a, b, channels_left, groups, run);
}
#endif

}  // namespace

CK_NATIVE_OPS(m) {
  m.def("channel_shuffle(Tensor x, int groups) -> Tensor");
  m.def(
      "concat_shuffle_split(Tensor a, Tensor b, int channels_left, int groups) -> (Tensor, "
      "Tensor)");
}
CK_CPU_IMPL(m) {
  cpu_kernel<&channel_shuffle_cpu>(m, "channel_shuffle");
  cpu_kernel<&concat_shuffle_split_cpu>(m, "concat_shuffle_split");
}
#if defined(CK_CUDA) || defined(CK_HOST_CUDA)
CK_CUDA_IMPL(m) {
  cuda_kernel<&channel_shuffle_cuda>(m, "channel_shuffle");
  cuda_kernel<&concat_shuffle_split_cuda>(m, "concat_shuffle_split");
}
#endif

}  // namespace ck::glue

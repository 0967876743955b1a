#include <vector>

#include "../../csrc/cpu/pointwise.h"
#include "../../csrc/cuda/pointwise.h"
#include "drive.h"

using namespace drive;

namespace {

struct Sizes {
  int64_t N, C, HW, K;
};

const Sizes kSizes[] = {
    {2, 5, 21, 3},      // nothing is a multiple of anything
    {1, 16, 16, 32},    // whole vectors
    {1, 1, 1, 1},       //
    {3, 7, 1, 19},      // one pixel
    {1, 24, 49, 100},   // several panels
    {2, 3, 700, 17},    // several chunks of pixels
    {3, 40, 24, 72},    // a tile's edge in whole vectors
    {2, 104, 72, 136},  // more chunks of channels than stages, more than one large tile
    {40, 9, 3, 5},      // vectors of pixels from three images
};

template <class T>
void run(const Sizes& z, bool channels_last, ck::Act act, bool extras, bool gated) {
  using A = std::conditional_t<std::is_same_v<T, double>, double, float>;
  const ck::PointwiseShape s{z.N, z.C, z.HW, z.K, channels_last};
  const ck::Dtype dtype = DtypeOf<T>::value;
  Buffer<T> x(z.N * z.C * z.HW), w(z.K * z.C), gate(z.N * z.C), residual(z.N * z.K * z.HW);
  Buffer<A> scale(z.K), shift(z.K);
  x.random(1), w.random(2), gate.random(3, 0.f), residual.random(4), scale.random(5), shift.random(6);
  Buffer<double> want(z.N * z.K * z.HW);
  for (int64_t n = 0; n < z.N; ++n)
    for (int64_t k = 0; k < z.K; ++k)
      for (int64_t p = 0; p < z.HW; ++p) {
        const auto at = [&](int64_t c, int64_t C) {
          return channels_last ? (n * z.HW + p) * C + c : (n * C + c) * z.HW + p;
        };
        double u = 0;
        for (int64_t c = 0; c < z.C; ++c)
          u += w.at(k * z.C + c) * x.at(at(c, z.C)) * (gated ? gate.at(n * z.C + c) : 1.0);
        if (extras) u = u * static_cast<double>(scale[k]) + static_cast<double>(shift[k]);
        u = ck::with_act(act, [&](auto a) { return ck::activate<a(), double>(u, 0.1); });
        want[at(k, z.K)] = u + (extras ? residual.at(at(k, z.K)) : 0.0);
      }
  const double tolerance = sizeof(T) == 2 ? 2 * eps<T>() : 1e-5;
  for (const auto tile : {ck::cuda::PointwiseTile::small, ck::cuda::PointwiseTile::large}) {
    if (tile == ck::cuda::PointwiseTile::large && (gated || z.K <= 64)) continue;  // nothing that small does not do
    const auto if_extras = [&](auto& buffer) { return extras ? buffer.data() : nullptr; };
    Buffer<T> y(z.N * z.K * z.HW);
    const ck::cuda::PointwiseArgs a{dtype,
                                    x.data(),
                                    w.data(),
                                    if_extras(scale),
                                    if_extras(shift),
                                    gated ? gate.data() : nullptr,
                                    if_extras(residual),
                                    y.data(),
                                    s,
                                    act,
                                    0.1,
                                    tile};
    expect("launch", ck::cuda::pointwise(a, nullptr) == cudaSuccess);
    expect_close("CUDA", y, want, tolerance);
  }
  for_each_isa([&] {
    const auto pool = ck::cpu::serial_pool();
    Buffer<T> y(z.N * z.K * z.HW);
    ck::cpu::PointwiseArgs a{dtype,
                             x.data(),
                             w.data(),
                             extras ? scale.data() : nullptr,
                             extras ? shift.data() : nullptr,
                             nullptr,
                             gated ? gate.data() : nullptr,
                             extras ? residual.data() : nullptr,
                             y.data(),
                             s,
                             act,
                             0.1,
                             pool};
    ck::cpu::pointwise(a);
    expect_close("pointwise", y, want, tolerance);
    if (!channels_last) return;
    Buffer<A> packed(ck::cpu::pointwise_packed_size(z.C, z.K));
    ck::cpu::pointwise_pack({dtype, w.data(), a.scale, a.shift, z.C, z.K, packed.data(), pool});
    Buffer<T> again(z.N * z.K * z.HW);
    a.weight = a.scale = a.shift = nullptr, a.packed = packed.data(), a.y = again.data();
    ck::cpu::pointwise(a);
    expect_close("packed", again, y, 0.0);
  });
}

}  // namespace

DRIVE(pointwise) {
  for_each_type([](auto t) {
    for (const Sizes& z : kSizes)
      for (bool channels_last : {false, true}) {
        run<decltype(t)>(z, channels_last, ck::Act::relu6, true, true);
        run<decltype(t)>(z, channels_last, ck::Act::silu, false, false);
        run<decltype(t)>(z, channels_last, ck::Act::identity, true, false);
      }
  });
}

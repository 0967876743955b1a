#include "../../csrc/cpu/squeeze_excite.h"
#include "../../csrc/cuda/squeeze_excite.h"
#include "drive.h"

using namespace drive;

namespace {

struct Sizes {
  int64_t N, C, HW, R;
};

const Sizes kSizes[] = {
    {2, 5, 21, 3},    // nothing is a multiple of anything
    {3, 16, 16, 4},   // whole vectors
    {1, 1, 1, 1},     //
    {2, 13, 1, 40},   // planes of one pixel, a wide inner layer
    {1, 3, 2500, 2},  // planes of several strips
    {11, 70, 9, 8},   // more images than a block of the layers takes
    {2, 600, 4, 33},  // more channels than a staged chunk
    {0, 4, 6, 2},     // no images: gradients of the weights are zeros
};

template <class T>
void run(const Sizes& z, bool channels_last, ck::Act act, ck::Act gate, bool biases) {
  const ck::SqueezeExciteShape s{z.N, z.C, z.HW, z.R, channels_last, act, gate, 0.1};
  const ck::Dtype dtype = DtypeOf<T>::value;
  const int64_t n = z.N * z.C * z.HW, weights = z.C * z.R;
  Buffer<T> x(n), grad(n), w1(weights), b1(z.R), w2(weights), b2(z.C);
  x.random(1, -1.f, 2.f), grad.random(2), w1.random(3), b1.random(4), w2.random(5), b2.random(6);
  const T *c1 = biases ? b1.data() : nullptr, *c2 = biases ? b2.data() : nullptr;

  Buffer<T> y(n), dx(n), dw1(weights), db1(z.R), dw2(weights), db2(z.C);
  Buffer<float> forward(ck::cuda::squeeze_excite_workspace(s, false)),
      backward(ck::cuda::squeeze_excite_workspace(s, true));
  expect("launch", ck::cuda::squeeze_excite_forward(dtype, s, x.data(), w1.data(), c1, w2.data(), c2, y.data(),
                                                    forward.data(), nullptr) == cudaSuccess);
  expect("launch", ck::cuda::squeeze_excite_backward(dtype, s, grad.data(), x.data(), w1.data(), c1, w2.data(), c2,
                                                     dx.data(), dw1.data(), db1.data(), dw2.data(), db2.data(),
                                                     backward.data(), nullptr) == cudaSuccess);
  for_each_isa([&] {
    const auto pool = ck::cpu::serial_pool();
    Buffer<T> cy(n), cdx(n), cdw1(weights), cdb1(z.R), cdw2(weights), cdb2(z.C);
    ck::cpu::squeeze_excite_forward({dtype, s, x.data(), w1.data(), c1, w2.data(), c2, cy.data(), pool});
    ck::cpu::squeeze_excite_backward({dtype, s, grad.data(), x.data(), w1.data(), c1, w2.data(), c2, cdx.data(),
                                      cdw1.data(), cdb1.data(), cdw2.data(), cdb2.data(), pool});
    // One rounding to T; in fp32 the sums over pixels, channels and rows, in other orders.
    const double tolerance = sizeof(T) == 2 ? 2 * eps<T>() : 2e-5;
    expect_close("forward", cy, y, tolerance), expect_close("dx", cdx, dx, tolerance);
    expect_close("dw1", cdw1, dw1, tolerance), expect_close("db1", cdb1, db1, tolerance);
    expect_close("dw2", cdw2, dw2, tolerance), expect_close("db2", cdb2, db2, tolerance);
  });
}

}  // namespace

DRIVE(squeeze_excite) {
  for_each_type([](auto t) {
    for (const Sizes& z : kSizes)
      for (bool channels_last : {false, true}) {
        run<decltype(t)>(z, channels_last, ck::Act::relu, ck::Act::hard_sigmoid, true);
        run<decltype(t)>(z, channels_last, ck::Act::silu, ck::Act::sigmoid, false);
      }
  });
}

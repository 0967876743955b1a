#include "../../csrc/cpu/bn_act.h"
#include "../../csrc/cuda/bn_act.h"
#include <string>

#include "drive.h"

using namespace drive;

namespace {

struct Sizes {
  int64_t N, C, S;
};

const Sizes kSizes[] = {
    {2, 5, 21},    // nothing is a multiple of anything
    {3, 8, 16},    // whole vectors
    {2, 13, 1},    // planes of one pixel
    {1, 1, 1},     // one value per channel
    {1, 3, 2500},  // planes of several blocks
    {5, 70, 9},    // channels_last rows of several vectors
    {300, 2, 4},   // more images than pixels
    {0, 4, 6},     // no images
    {1, 260, 3},   // more channels than threads
};
constexpr double kEps = 1e-5, kSlope = 0.1;
constexpr double kSum = 3e-5;  // fp32 sums of a few thousand terms of either sign, in two different orders

template <class T>
void run(const Sizes& z, bool channels_last, ck::Act act, bool optional) {
  const ck::BnShape s{DtypeOf<T>::value, z.N, z.C, z.S, channels_last};
  const int64_t n = s.numel(), C = s.C;
  Buffer<T> x(n), grad(n), residual(n);
  Buffer<float> scale(C), shift(C);
  x.random(1, -2.f, 3.f), grad.random(2), residual.random(3), scale.random(4, 0.5f, 2.f), shift.random(5);
  const float *weight = optional ? scale.data() : nullptr, *bias = optional ? shift.data() : nullptr;
  const T* more = optional ? residual.data() : nullptr;
  const auto ok = [](cudaError_t e) { expect("launch", e == cudaSuccess); };
  // The workspace is fresh for each call: what a call leaves in it may not matter to the next.
  const auto workspace = [&] { return Buffer<float>(ck::cuda::bn_act_workspace(s)); };

  Buffer<T> y(n), dx(n), train_y(n), train_dx(n);
  Buffer<float> dscale(C), dshift(C), mean(C), var(C), train_mean(C), train_var(C), dweight(C), dbias(C);
  ok(ck::cuda::bn_act_forward(s, x.data(), scale.data(), shift.data(), more, y.data(), act, kSlope, nullptr));
  auto w = workspace();
  ok(ck::cuda::bn_act_backward(s, grad.data(), x.data(), scale.data(), shift.data(), dx.data(), dscale.data(),
                               dshift.data(), w.data(), act, kSlope, nullptr));
  w = workspace();
  if (s.values() == 0) {
    mean.fill(0), var.fill(0);
  } else {
    ok(ck::cuda::channel_stats(s, x.data(), mean.data(), var.data(), w.data(), nullptr));
    w = workspace();
    ok(ck::cuda::bn_act_train_forward(s, x.data(), weight, bias, more, train_y.data(), train_mean.data(),
                                      train_var.data(), w.data(), kEps, act, kSlope, nullptr));
    expect("the statistics of training are those of channel_stats",
           std::memcmp(mean.data(), train_mean.data(), C * sizeof(float)) == 0 &&
               std::memcmp(var.data(), train_var.data(), C * sizeof(float)) == 0);
  }
  w = workspace();
  ok(ck::cuda::bn_act_train_backward(s, grad.data(), x.data(), mean.data(), var.data(), weight, bias, train_dx.data(),
                                     dweight.data(), dbias.data(), w.data(), kEps, act, kSlope, nullptr));

  char where[96];
  std::snprintf(where, sizeof where, "size %zu N%d C%d S%d %s act %d", sizeof(T), int(z.N), int(z.C), int(z.S),
                channels_last ? "channels_last" : "nchw", int(act));
  const auto close = [&](const char* what, const auto& got, const auto& want, double tolerance) {
    expect_close((std::string(what) + ", " + where).c_str(), got, want, tolerance);
  };
  for_each_isa([&] {
    const auto pool = ck::cpu::serial_pool();
    Buffer<T> cy(n), cdx(n);
    Buffer<float> first(C), second(C);
    ck::cpu::bn_act_forward({s, x.data(), scale.data(), shift.data(), more, cy.data(), act, kSlope, pool});
    close("forward", cy, y, eps<T>());
    ck::cpu::bn_act_backward({s, grad.data(), x.data(), scale.data(), shift.data(), cdx.data(), first.data(),
                              second.data(), act, kSlope, pool});
    close("dx", cdx, dx, 2 * eps<T>());
    close("dscale", first, dscale, kSum), close("dshift", second, dshift, kSum);
    if (s.values() != 0) {
      ck::cpu::channel_stats({s, x.data(), first.data(), second.data(), pool});
      close("mean", first, mean, 2e-6), close("var", second, var, 2e-6);
      ck::cpu::bn_act_train_forward(
          {s, x.data(), weight, bias, more, cy.data(), first.data(), second.data(), kEps, act, kSlope, pool});
      close("training", cy, train_y, s.values() == 1 ? 1e-2 : 4 * eps<T>());  // one value: 0 / sqrt(eps)
    }
    ck::cpu::bn_act_train_backward({s, grad.data(), x.data(), mean.data(), var.data(), weight, bias, cdx.data(),
                                    first.data(), second.data(), kEps, act, kSlope, pool});
    close("training dweight", first, dweight, kSum), close("training dbias", second, dbias, kSum);
    close("training dx", cdx, train_dx, s.values() == 1 ? 1e-2 : 8 * eps<T>());
  });
}

}  // namespace

DRIVE(bn_act) {
  const ck::Act acts[] = {ck::Act::identity, ck::Act::relu6, ck::Act::leaky_relu, ck::Act::mish};
  for (const Sizes& z : kSizes) {
    int turn = 0;  // each size meets every activation, with and without the optional arguments
    for_each_type([&](auto t) {
      for (bool channels_last : {false, true}) {
        run<decltype(t)>(z, channels_last, acts[turn % 4], turn % 3 != 0);
        ++turn;
      }
    });
  }
}

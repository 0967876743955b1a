// Depthwise convolution, batch norm with batch statistics and activation, forward and backward, in one CPU call each,
// against the definition in double.
#include "../../csrc/cpu/dwconv.h"
#include "../../csrc/cpu/dwconv_backward.h"
#include <string>

#include "drive.h"

using namespace drive;

namespace {

constexpr double kEps = 1e-5, kSlope = 0.1;

struct Sizes {
  int N, C, H, W, k, stride, pad;
};

ck::DwConvShape shape_of(const Sizes& z, bool nhwc) {
  const int64_t P = (z.H + 2 * z.pad - z.k) / z.stride + 1, Q = (z.W + 2 * z.pad - z.k) / z.stride + 1;
  return {z.N, z.C, z.H, z.W, P, Q, z.k, z.k, z.stride, z.stride, 1, 1, z.pad, z.pad, nhwc};
}

// f(index in u, index in x, index in weight, channel) for every product of the convolution.
template <class F>
void for_products(const ck::DwConvShape& s, F&& f) {
  const auto at = [&](int64_t H, int64_t W, int64_t n, int64_t c, int64_t h, int64_t w) {
    return s.channels_last ? ((n * H + h) * W + w) * s.C + c : ((n * s.C + c) * H + h) * W + w;
  };
  for (int64_t n = 0; n < s.N; ++n)
    for (int64_t c = 0; c < s.C; ++c)
      for (int64_t p = 0; p < s.P; ++p)
        for (int64_t q = 0; q < s.Q; ++q)
          for (int64_t k = 0; k < s.kh * s.kw; ++k) {
            const int64_t h = p * s.sh - s.top + k / s.kw, w = q * s.sw - s.left + k % s.kw;
            if (h >= 0 && h < s.H && w >= 0 && w < s.W)
              f(at(s.P, s.Q, n, c, p, q), at(s.H, s.W, n, c, h, w), c * s.kh * s.kw + k, c);
          }
}

template <class T, ck::Act kAct>
void run(const Sizes& z, bool nhwc, bool affine) {
  const ck::DwConvShape s = shape_of(z, nhwc);
  const int64_t inputs = s.N * s.C * s.H * s.W, outputs = s.N * s.C * s.P * s.Q, taps = s.C * z.k * z.k;
  const double count = double(outputs) / s.C;
  const auto channel = [&](int64_t i) { return nhwc ? i % s.C : i / (s.P * s.Q) % s.C; };
  Buffer<T> x(inputs), weight(taps), grad(outputs);
  Buffer<float> gamma(s.C), beta(s.C);
  x.random(1), weight.random(2), grad.random(3), gamma.random(4, 0.5f, 1.5f), beta.random(5);
  Buffer<double> u(outputs), mean(s.C), var(s.C), y(outputs), dbeta(s.C), dgamma(s.C), du(outputs), dx(inputs);
  Buffer<double> dweight(taps), size(taps);
  for (Buffer<double>* b : {&u, &mean, &var, &dbeta, &dgamma, &dx, &dweight, &size}) b->fill(0);
  for_products(s, [&](int64_t o, int64_t i, int64_t k, int64_t) { u[o] += x.at(i) * weight.at(k); });
  for (int64_t o = 0; o < outputs; ++o) mean[channel(o)] += u[o] / count;
  for (int64_t o = 0; o < outputs; ++o) var[channel(o)] += std::pow(u[o] - mean[channel(o)], 2) / count;
  const auto rstd = [&](int64_t c) { return 1 / std::sqrt(var[c] + kEps); };
  const auto scale = [&](int64_t c) { return (affine ? gamma.at(c) : 1.0) * rstd(c); };
  const auto shift = [&](int64_t c) { return affine ? beta.at(c) : 0.0; };
  const auto normal = [&](int64_t o) { return (u[o] - mean[channel(o)]) * scale(channel(o)) + shift(channel(o)); };
  const auto g = [&](int64_t o) { return grad.at(o) * ck::activate_grad<kAct>(normal(o), kSlope); };
  for (int64_t o = 0; o < outputs; ++o) {
    const int64_t c = channel(o);
    y[o] = ck::activate<kAct>(normal(o), kSlope);
    dbeta[c] += g(o), dgamma[c] += g(o) * (u[o] - mean[c]) * rstd(c);
  }
  for (int64_t o = 0; o < outputs; ++o) {
    const int64_t c = channel(o);
    du[o] = scale(c) * (g(o) - dbeta[c] / count - (u[o] - mean[c]) * rstd(c) * dgamma[c] / count);
  }
  for_products(s, [&](int64_t o, int64_t i, int64_t k, int64_t) {
    dx[i] += du[o] * weight.at(k), dweight[k] += du[o] * x.at(i), size[k] += std::fabs(du[o] * x.at(i));
  });

  char name[120];
  std::snprintf(name, sizeof name, "%s size %zu N%d C%d %dx%d k%d s%d", nhwc ? "nhwc" : "nchw", sizeof(T), z.N, z.C,
                z.H, z.W, z.k, z.stride);
  const auto close = [&](const char* what, const auto& got, const auto& want, double tolerance) {
    expect_close((std::string(what) + ", " + name).c_str(), got, want, tolerance);
  };
  const float *w = affine ? gamma.data() : nullptr, *b = affine ? beta.data() : nullptr;
  // u is kept in T, so what comes of it carries u's rounding, times gamma / std (below 4 here)
  const double rounding = 4 * eps<T>();
  for_each_isa([&] {
    const auto pool = ck::cpu::serial_pool();
    Buffer<T> cy(outputs), cu(outputs), cdx(inputs);
    Buffer<float> cmean(s.C), cvar(s.C), cdweight(taps), cdgamma(s.C), cdbeta(s.C);
    ck::cpu::dwconv_train({DtypeOf<T>::value, x.data(), weight.data(), w, b, cy.data(), cu.data(), s, cmean.data(),
                           cvar.data(), kEps, kAct, kSlope, pool});
    close("u", cu, u, 2 * eps<T>()), close("mean", cmean, mean, 5e-6), close("var", cvar, var, 5e-6);
    close("y", cy, y, rounding);
    const ck::cpu::BnActGrad bn{cu.data(),      cmean.data(),  cvar.data(), w,    b,
                                cdgamma.data(), cdbeta.data(), kEps,        kAct, kSlope};
    ck::cpu::dwconv_backward(
        {DtypeOf<T>::value, s, grad.data(), &bn, x.data(), weight.data(), cdx.data(), cdweight.data(), pool});
    const double many = rounding * std::sqrt(count);  // sums of `count` terms whose roundings are independent
    close("dbn_weight", cdgamma, dgamma, many), close("dbn_bias", cdbeta, dbeta, many);
    close("dx", cdx, dx, 4 * rounding);
    for (int64_t k = 0; k < taps; ++k)
      expect("dweight", std::fabs(cdweight.at(k) - dweight[k]) <= rounding * (1 + size[k]));
  });
}

const Sizes kSizes[] = {
    {2, 19, 9, 7, 3, 1, 1},    // NCHW channel by channel; a vector of channels and some
    {1, 33, 12, 37, 3, 2, 1},  // rows of several vectors
    {2, 17, 8, 9, 5, 1, 2},    //
    {1, 20, 11, 13, 5, 2, 2},  //
    {1, 16, 10, 18, 7, 1, 3},  //
    {2, 18, 9, 9, 7, 2, 3},    // no tiles of its own
    {3, 5, 6, 8, 3, 1, 0},     // few channels
    {1, 20, 5, 30, 3, 1, 0},   // columns between the borders
    {1, 20, 4, 5, 3, 2, 4},    // rows and columns of padding alone
    {2, 275, 5, 6, 3, 1, 1},   // blocks of channels, the last vector overlapping its neighbour
    {1, 140, 7, 9, 5, 2, 2},   //
};

}  // namespace

DRIVE(dwconv_train) {
  for (const Sizes& z : kSizes)
    for (bool nhwc : {false, true}) {
      run<float, ck::Act::silu>(z, nhwc, true);
      run<float, ck::Act::leaky_relu>(z, nhwc, false);
      run<__half, ck::Act::silu>(z, nhwc, true);
      run<__nv_bfloat16, ck::Act::identity>(z, nhwc, true);
    }
}

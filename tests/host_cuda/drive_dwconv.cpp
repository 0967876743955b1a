// The depthwise convolution, its statistics and its gradient towards x against their definitions in double.
#include "../../csrc/cpu/dwconv.h"
#include "../../csrc/cpu/dwconv_backward.h"
#include "../../csrc/cuda/dwconv.h"
#include "../../csrc/cuda/dwconv_backward.h"
#include <string>

#include "drive.h"

using namespace drive;

namespace {

// Offset of [n, c, h, w] in a [N, C, H, W] tensor of either layout.
int64_t at(bool nhwc, int64_t C, int64_t H, int64_t W, int64_t n, int64_t c, int64_t h, int64_t w) {
  return nhwc ? ((n * H + h) * W + w) * C + c : ((n * C + c) * H + h) * W + w;
}

struct Sizes {
  int N, C, H, W, kh, kw, sh, sw, dh, dw, left, right, top, bottom;
};

ck::DwConvShape shape_of(const Sizes& z, bool nhwc) {
  const int P = (z.H + z.top + z.bottom - z.dh * (z.kh - 1) - 1) / z.sh + 1;
  const int Q = (z.W + z.left + z.right - z.dw * (z.kw - 1) - 1) / z.sw + 1;
  return {z.N, z.C, z.H, z.W, P, Q, z.kh, z.kw, z.sh, z.sw, z.dh, z.dw, z.top, z.left, nhwc};
}

template <class T>
void convolve(const ck::DwConvShape& s, const Buffer<T>& x, const Buffer<T>& weight, Buffer<double>& u) {
  for (int64_t n = 0; n < s.N; ++n)
    for (int64_t c = 0; c < s.C; ++c)
      for (int64_t p = 0; p < s.P; ++p)
        for (int64_t q = 0; q < s.Q; ++q) {
          double sum = 0;
          for (int i = 0; i < s.kh; ++i)
            for (int j = 0; j < s.kw; ++j) {
              const int64_t h = p * s.sh - s.top + i * s.dh, w = q * s.sw - s.left + j * s.dw;
              if (h >= 0 && h < s.H && w >= 0 && w < s.W)
                sum += x.at(at(s.channels_last, s.C, s.H, s.W, n, c, h, w)) * weight.at((c * s.kh + i) * s.kw + j);
            }
          u.data()[at(s.channels_last, s.C, s.P, s.Q, n, c, p, q)] = sum;
        }
}

template <class T>
void run(const Sizes& z, bool nhwc) {
  const ck::DwConvShape s = shape_of(z, nhwc);
  const int64_t outputs = s.N * s.C * s.P * s.Q;
  char name[160];
  std::snprintf(name, sizeof name, "%s size %zu N%d C%d %dx%d k%dx%d s%d%d d%d%d", nhwc ? "nhwc" : "nchw", sizeof(T),
                z.N, z.C, z.H, z.W, z.kh, z.kw, z.sh, z.sw, z.dh, z.dw);
  Buffer<T> x(s.N * s.C * s.H * s.W), weight(s.C * s.kh * s.kw), residual(outputs), y(outputs), raw(outputs);
  Buffer<float> scale(s.C), shift(s.C);
  x.random(1), weight.random(2), residual.random(3), scale.random(4), shift.random(5);
  Buffer<double> u(outputs), want(outputs);
  convolve(s, x, weight, u);
  for (int64_t i = 0; i < outputs; ++i) {
    const int64_t c = nhwc ? i % s.C : i / (s.P * s.Q) % s.C;
    want[i] = ck::activate<ck::Act::mish>(scale.at(c) * u.at(i) + shift.at(c), 0.0) + residual.at(i);
  }
  ck::cuda::DwConvArgs a{DtypeOf<T>::value, x.data(),        weight.data(), scale.data(),
                         shift.data(),      residual.data(), y.data(),      s};
  a.act = ck::Act::mish;
  expect("launch", ck::cuda::dwconv(a, nullptr) == cudaSuccess);
  expect_close(name, y, want, eps<T>() * 2);
  const auto pool = ck::cpu::serial_pool();
  for_each_isa([&] {
    Buffer<T> cy(outputs);
    ck::cpu::dwconv({DtypeOf<T>::value, x.data(), weight.data(), scale.data(), shift.data(), residual.data(), cy.data(),
                     s, ck::Act::mish, 0.0, nullptr, nullptr, pool});
    expect_close((std::string("CPU ") + name).c_str(), cy, want, eps<T>() * 2);
  });
  if (outputs == 0) return;

  // The gradient towards x of a weighted sum of u, scattered by the definition.
  Buffer<T> dx(x.n);
  Buffer<double> want_dx(x.n);
  want_dx.fill(0);
  for (int64_t i = 0; i < outputs; ++i) {
    const int64_t q = nhwc ? i / s.C % s.Q : i % s.Q, p = nhwc ? i / s.C / s.Q % s.P : i / s.Q % s.P;
    const int64_t c = nhwc ? i % s.C : i / (s.P * s.Q) % s.C, n = i / (s.C * s.P * s.Q);
    for (int k = 0; k < s.kh * s.kw; ++k) {
      const int64_t h = p * s.sh - s.top + k / s.kw * s.dh, w = q * s.sw - s.left + k % s.kw * s.dw;
      if (h >= 0 && h < s.H && w >= 0 && w < s.W)
        want_dx[at(nhwc, s.C, s.H, s.W, n, c, h, w)] += residual.at(i) * weight.at(c * s.kh * s.kw + k);
    }
  }
  expect("launch", ck::cuda::dwconv_grad_input(DtypeOf<T>::value, residual.data(), weight.data(), dx.data(), s,
                                               nullptr) == cudaSuccess);
  expect_close("grad_input", dx, want_dx, eps<T>() * 2);
  for_each_isa([&] {
    Buffer<T> cdx(x.n);
    ck::cpu::dwconv_backward(
        {DtypeOf<T>::value, s, residual.data(), nullptr, nullptr, weight.data(), cdx.data(), nullptr, pool});
    expect_close((std::string("CPU grad_input ") + name).c_str(), cdx, want_dx, eps<T>() * 2);
  });

  a.scale = a.shift = nullptr, a.residual = nullptr, a.y = raw.data(), a.act = ck::Act::identity;
  Buffer<float> partials(ck::cuda::dwconv_stats_workspace(a)), mean(s.C), var(s.C);
  expect("launch", ck::cuda::dwconv_stats(a, partials.data(), mean.data(), var.data(), nullptr) == cudaSuccess);
  expect_close(name, raw, u, eps<T>() * 2);
  Buffer<double> want_mean(s.C), want_var(s.C);
  want_mean.fill(0), want_var.fill(0);
  const double count = double(s.N) * s.P * s.Q;
  auto channel = [&](int64_t i) { return nhwc ? i % s.C : i / (s.P * s.Q) % s.C; };
  for (int64_t i = 0; i < outputs; ++i) want_mean[channel(i)] += u.at(i) / count;
  for (int64_t i = 0; i < outputs; ++i) want_var[channel(i)] += std::pow(u.at(i) - want_mean[channel(i)], 2) / count;
  expect_close("mean", mean, want_mean, 5e-6);
  expect_close("var", var, want_var, 5e-6);
  for_each_isa([&] {
    Buffer<T> cu(outputs);
    Buffer<float> cmean(s.C), cvar(s.C);
    ck::cpu::dwconv_stats({DtypeOf<T>::value, x.data(), weight.data(), nullptr, nullptr, nullptr, cu.data(), s,
                           ck::Act::identity, 0.0, cmean.data(), cvar.data(), pool});
    expect_close((std::string("CPU u ") + name).c_str(), cu, u, eps<T>() * 2);
    expect_close("CPU mean", cmean, want_mean, 5e-6);
    expect_close("CPU var", cvar, want_var, 5e-6);
  });
}

const Sizes kSizes[] = {
    {2, 8, 13, 11, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},   // aligned channels
    {1, 6, 9, 10, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},    // pairs of channels
    {2, 5, 7, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},     // single channels
    {2, 12, 12, 13, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1},  //
    {1, 4, 14, 14, 3, 3, 2, 2, 1, 1, 0, 1, 0, 1},   // TensorFlow's "same"
    {2, 10, 9, 8, 5, 5, 1, 1, 1, 1, 2, 2, 2, 2},    //
    {1, 6, 15, 17, 5, 5, 2, 2, 1, 1, 2, 2, 2, 2},   //
    {1, 6, 17, 15, 7, 7, 1, 1, 1, 1, 3, 3, 3, 3},   //
    {1, 2, 16, 13, 7, 7, 2, 2, 1, 1, 3, 3, 3, 3},   //
    {1, 3, 8, 9, 3, 5, 1, 2, 2, 1, 2, 0, 1, 4},     // nothing square
    {1, 4, 6, 6, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},     //
    {1, 4, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},     // one pixel
    {1, 2, 3, 40, 3, 3, 1, 1, 1, 1, 5, 7, 4, 0},    // more padding than filter
    {0, 4, 6, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},     // no images
    {1, 4, 40, 150, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},  // several tiles, strips and blocks
    {1, 37, 7, 9, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},    // CPU vectors of channels, and some left over
    {1, 70, 6, 7, 5, 5, 2, 2, 1, 1, 2, 2, 2, 2},    //
    {1, 17, 9, 40, 3, 3, 1, 1, 2, 2, 2, 2, 2, 2},   // dilation
    {1, 19, 11, 37, 7, 7, 2, 2, 2, 2, 6, 6, 6, 6},  //
};

}  // namespace

DRIVE(dwconv) {
  for_each_type([](auto t) {
    for (const Sizes& z : kSizes)
      for (bool nhwc : {false, true}) run<decltype(t)>(z, nhwc);
  });
}

// Many small planes per block, as at the end of a network.
DRIVE(dwconv_planes) {
  for (bool nhwc : {false, true}) run<__half>({2, 1000, 3, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1}, nhwc);
}

// Channels whose mean is 1000 standard deviations away from zero.
DRIVE(dwconv_cuda_large_mean) {
  for (bool nhwc : {false, true}) {
    const ck::DwConvShape s = shape_of({2, 4, 24, 24, 3, 3, 1, 1, 1, 1, 0, 0, 0, 0}, nhwc);
    Buffer<float> x(s.N * s.C * s.H * s.W), weight(s.C * 9), y(s.N * s.C * s.P * s.Q), mean(s.C), var(s.C);
    Buffer<double> u(y.n);
    x.random(1, 999.f, 1001.f), weight.random(2, 0.5f, 1.f);
    convolve(s, x, weight, u);
    const ck::cuda::DwConvArgs a{ck::Dtype::f32, x.data(), weight.data(), nullptr, nullptr, nullptr, y.data(), s};
    Buffer<float> partials(ck::cuda::dwconv_stats_workspace(a));
    expect("launch", ck::cuda::dwconv_stats(a, partials.data(), mean.data(), var.data(), nullptr) == cudaSuccess);
    for (int64_t c = 0; c < s.C; ++c) {
      double m = 0, v = 0;
      for (int64_t i = 0; i < u.n; ++i) m += (nhwc ? i % s.C : i / (s.P * s.Q) % s.C) == c ? u[i] : 0.0;
      m /= double(u.n) / s.C;
      for (int64_t i = 0; i < u.n; ++i)
        v += (nhwc ? i % s.C : i / (s.P * s.Q) % s.C) == c ? std::pow(u[i] - m, 2) : 0.0;
      v /= double(u.n) / s.C;
      expect("mean", std::fabs(mean[c] / m - 1) < 1e-6);
      expect("var", std::fabs(var[c] / v - 1) < 5e-3);  // u itself is rounded to 1e-7 of its mean, 1e-4 of its spread
    }
  }
}

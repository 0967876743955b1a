// The gradient of the depthwise convolution towards its filter against its definition in double.
#include "../../csrc/cpu/dwconv_backward.h"
#include "../../csrc/cuda/dwconv_grad_weight.h"
#include <string>

#include "drive.h"

using namespace drive;

namespace {

struct Sizes {
  int N, C, H, W, kh, kw, sh, sw, dh, dw, left, right, top, bottom;
};

// offset: of grad and x from a 16-byte boundary, in elements.
template <class T>
void run(const Sizes& z, bool nhwc, int offset) {
  const int64_t P = (z.H + z.top + z.bottom - z.dh * (z.kh - 1) - 1) / z.sh + 1;
  const int64_t Q = (z.W + z.left + z.right - z.dw * (z.kw - 1) - 1) / z.sw + 1;
  const ck::DwConvShape s{z.N, z.C, z.H, z.W, P, Q, z.kh, z.kw, z.sh, z.sw, z.dh, z.dw, z.top, z.left, nhwc};
  Buffer<T> x(s.N * s.C * s.H * s.W + offset), grad(s.N * s.C * P * Q + offset);
  x.random(1), grad.random(2);
  Buffer<double> want(s.C * s.kh * s.kw), size(want.n);  // and the sum of |products|, which the rounding is relative to
  want.fill(0), size.fill(1e-30f);
  auto at = [&](int64_t H, int64_t W, int64_t n, int64_t c, int64_t h, int64_t w) {
    return offset + (nhwc ? ((n * H + h) * W + w) * s.C + c : ((n * s.C + c) * H + h) * W + w);
  };
  for (int64_t k = 0; k < want.n; ++k) {
    const int64_t c = k / (s.kh * s.kw), i = k / s.kw % s.kh, j = k % s.kw;
    for (int64_t n = 0; n < s.N; ++n)
      for (int64_t p = 0; p < P; ++p)
        for (int64_t q = 0; q < Q; ++q) {
          const int64_t h = p * s.sh - s.top + i * s.dh, w = q * s.sw - s.left + j * s.dw;
          if (h < 0 || h >= s.H || w < 0 || w >= s.W) continue;
          const double product = grad.at(at(P, Q, n, c, p, q)) * x.at(at(s.H, s.W, n, c, h, w));
          want[k] += product, size[k] += std::fabs(product);
        }
  }
  Buffer<float> got(want.n), again(want.n);
  for (Buffer<float>* out : {&got, &again}) {
    const ck::cuda::DwConvGradWeightArgs a{DtypeOf<T>::value, grad.data() + offset, x.data() + offset, out->data(), s};
    Buffer<float> partials(ck::cuda::dwconv_grad_weight_workspace(a));
    expect("launch", ck::cuda::dwconv_grad_weight(a, partials.data(), nullptr) == cudaSuccess);
  }
  expect("the same bits twice", std::memcmp(got.data(), again.data(), got.n * sizeof(float)) == 0);
  Buffer<double> scaled(want.n), scaled_want(want.n);
  for (int64_t k = 0; k < want.n; ++k) scaled[k] = got.at(k) / size[k], scaled_want[k] = want[k] / size[k];
  char name[160];
  std::snprintf(name, sizeof name, "%s size %zu N%d C%d %dx%d k%dx%d s%d%d d%d%d", nhwc ? "nhwc" : "nchw", sizeof(T),
                z.N, z.C, z.H, z.W, z.kh, z.kw, z.sh, z.sw, z.dh, z.dw);
  expect_close(name, scaled, scaled_want, 2e-6);

  Buffer<T> weight(want.n);
  weight.random(3);
  for_each_isa([&] {
    Buffer<float> alone(want.n), both(want.n);
    Buffer<T> dx(x.n - offset), dx_alone(dx.n);
    const auto backward = [&](void* dx, float* dweight) {
      ck::cpu::dwconv_backward({DtypeOf<T>::value, s, grad.data() + offset, nullptr, x.data() + offset, weight.data(),
                                dx, dweight, ck::cpu::serial_pool()});
    };
    backward(nullptr, alone.data()), backward(dx_alone.data(), nullptr), backward(dx.data(), both.data());
    for (const Buffer<float>* dweight : {&alone, &both}) {
      for (int64_t k = 0; k < want.n; ++k) scaled[k] = dweight->at(k) / size[k];
      expect_close((std::string("CPU ") + name).c_str(), scaled, scaled_want, 2e-6);
    }
    expect_close("CPU dx, with dweight and alone", dx, dx_alone, eps<T>());
  });
}

const Sizes kSizes[] = {
    {2, 8, 13, 11, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},   // aligned channels
    {2, 5, 7, 7, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},     // single channels
    {2, 36, 12, 13, 3, 3, 2, 2, 1, 1, 1, 1, 1, 1},  // 9 of 16 lanes
    {1, 132, 5, 6, 3, 3, 1, 1, 2, 2, 2, 2, 2, 2},   // two groups of channels, dilation
    {1, 4, 14, 14, 3, 3, 2, 2, 1, 1, 0, 1, 0, 1},   // TensorFlow's "same"
    {2, 10, 9, 8, 5, 5, 1, 1, 1, 1, 2, 2, 2, 2},    // pairs of channels
    {1, 7, 15, 17, 5, 5, 2, 2, 1, 1, 2, 2, 2, 2},   //
    {1, 6, 17, 15, 7, 7, 1, 1, 1, 1, 3, 3, 3, 3},   //
    {1, 3, 16, 13, 7, 7, 2, 2, 1, 1, 3, 3, 3, 3},   //
    {1, 3, 8, 9, 3, 5, 1, 2, 2, 1, 2, 0, 1, 4},     // nothing square
    {2, 2, 12, 14, 2, 11, 3, 1, 1, 1, 5, 5, 0, 1},  // two passes per filter row
    {1, 4, 6, 6, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},     //
    {3, 4, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},     // one pixel
    {1, 2, 3, 40, 3, 3, 1, 1, 1, 1, 5, 7, 4, 0},    // more padding than filter
    {0, 4, 6, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},     // no images: zeros
    {2, 0, 6, 6, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},     // no channels
    {2, 4, 40, 75, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},   // many chunks
    {700, 2, 2, 3, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},   // steps over whole images
    {2, 18, 21, 35, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1},  // CPU planes of several vectors a row
    {1, 20, 9, 19, 5, 5, 1, 1, 1, 1, 2, 2, 2, 2},   //
    {1, 17, 12, 39, 5, 5, 2, 2, 1, 1, 2, 2, 2, 2},  //
    {1, 17, 11, 18, 7, 7, 1, 1, 1, 1, 3, 3, 3, 3},  //
    {1, 16, 9, 12, 3, 3, 1, 1, 1, 1, 3, 3, 3, 3},   // padding above k - 1: dx not through the forward kernel
};

}  // namespace

DRIVE(dwconv_grad_weight) {
  for_each_type([](auto t) {
    for (const Sizes& z : kSizes)
      for (bool nhwc : {false, true})
        for (int offset : {0, 1}) run<decltype(t)>(z, nhwc, offset);
  });
}

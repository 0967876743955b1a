#include "../../csrc/cpu/spp.h"
#include "../../csrc/cuda/spp.h"
#include "drive.h"

using namespace drive;

namespace {

struct Sizes {
  int64_t N, C, H, W;
  int64_t radius[3];
};

const Sizes kSizes[] = {
    {2, 3, 7, 9, {2, 4, 6}},    // windows larger than the image
    {1, 37, 5, 4, {0, 1, 4}},   // more channels than a tile of any type takes
    {1, 2, 1, 6, {1, 3, 9}},    // one row
    {1, 1, 19, 1, {2, 2, 3}},   // one column; one size twice
    {1, 16, 3, 17, {1, 2, 3}},  // rows longer than a vector
    {1, 2, 80, 80, {1, 2, 2}},  // beyond CUDA's shared memory
    {0, 3, 4, 4, {2, 4, 6}},    // no images
};
const int kSlots[] = {2, 1, 3};  // not in the order of the radii

// The definition, element by element: values, and gradients in the order in which windows are met.
template <class T>
struct Definition {
  const ck::SppShape& s;
  int64_t x(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return s.channels_last ? ((n * s.H + h) * s.W + w) * s.C + c : ((n * s.C + c) * s.H + h) * s.W + w;
  }
  int64_t y(int64_t n, int slot, int64_t c, int64_t h, int64_t w) const {
    const int64_t channels = s.slots() * s.C, k = slot * s.C + c;
    return s.channels_last ? ((n * s.H + h) * s.W + w) * channels + k : ((n * channels + k) * s.H + h) * s.W + w;
  }
  // f(n, c, h, w, slot, place of the maximum) for every window
  template <class F>
  void for_each_window(const Buffer<T>& in, F&& f) const {
    for (int64_t n = 0; n < s.N; ++n)
      for (int64_t c = 0; c < s.C; ++c)
        for (int k = 0; k < s.count; ++k)
          for (int64_t h = 0; h < s.H; ++h)
            for (int64_t w = 0; w < s.W; ++w) f(n, c, h, w, s.slot[k], greatest(in, n, c, h, w, s.radius[k]));
  }
  int64_t greatest(const Buffer<T>& in, int64_t n, int64_t c, int64_t h, int64_t w, int64_t r) const {
    int64_t place = -1;
    for (int64_t i = std::max<int64_t>(h - r, 0); i <= std::min(h + r, s.H - 1); ++i)
      for (int64_t j = std::max<int64_t>(w - r, 0); j <= std::min(w + r, s.W - 1); ++j) {
        const int64_t at = x(n, c, i, j);
        if (place < 0 || in.at(at) > in.at(place) || std::isnan(in.at(at))) place = at;
      }
    return place;
  }
};

template <class T>
void run(const Sizes& z, bool channels_last, bool cuda) {
  ck::SppShape s{z.N, z.C, z.H, z.W, channels_last, 3, {}, {}};
  for (int k = 0; k < 3; ++k) s.radius[k] = z.radius[k], s.slot[k] = kSlots[k];
  const Definition<T> definition{s};
  Buffer<T> x(s.elements()), grad(s.slots() * s.elements()), y(grad.n);
  Buffer<double> dx(x.n);
  x.random(1), grad.random(2);
  for (int64_t i = 0; i < x.n; i += 3) x[i] = T(float(i % 5) / 4 - 0.5f);  // ties; zeros of both signs
  for (int64_t i = 0; i < x.n; i += 7) x[i] = T(i % 2 ? -0.f : 0.f);
  for (int64_t i = 11; i < x.n; i += 61) x[i] = T(i % 2 ? NAN : -INFINITY);
  for (int64_t n = 0; n < s.N; ++n)
    for (int64_t c = 0; c < s.C; ++c)
      for (int64_t h = 0; h < s.H; ++h)
        for (int64_t w = 0; w < s.W; ++w) {
          const int64_t at = definition.x(n, c, h, w), there = definition.y(n, 0, c, h, w);
          y[there] = x[at];
          dx[at] = double(grad.at(there));
        }
  definition.for_each_window(x, [&](int64_t n, int64_t c, int64_t h, int64_t w, int slot, int64_t place) {
    const int64_t there = definition.y(n, slot, c, h, w);
    y[there] = x[place];
    dx[place] += grad.at(there);
  });

  char name[96];
  std::snprintf(name, sizeof name, "size %zu N%d C%d %dx%d radius %d %d %d %s", sizeof(T), int(z.N), int(z.C), int(z.H),
                int(z.W), int(z.radius[0]), int(z.radius[1]), int(z.radius[2]),
                channels_last ? "channels_last" : "nchw");
  const auto output = [&](auto&& forward, auto&& backward) {
    Buffer<T> got(y.n), gradient(x.n);
    forward(got.data());
    backward(gradient.data());
    bool same = true;  // numbers; of NaNs only that they are
    for (int64_t i = 0; i < y.n; ++i) same &= got.at(i) == y.at(i) || (std::isnan(got.at(i)) && std::isnan(y.at(i)));
    expect(name, same);
    expect_close(name, gradient, dx, 30 * eps<T>());
  };
  const ck::Dtype d = DtypeOf<T>::value;
  if constexpr (sizeof(T) < 8) {
    if (cuda)
      output([&](void* to) { expect("launch", ck::cuda::spp(d, s, x.data(), to, nullptr) == cudaSuccess); },
             [&](void* to) {
               expect("launch", ck::cuda::spp_backward(d, s, grad.data(), x.data(), to, nullptr) == cudaSuccess);
             });
  }
  for_each_isa([&] {
    output([&](void* to) { ck::cpu::spp({d, s, x.data(), to, pool_of<3>()}); },
           [&](void* to) { ck::cpu::spp_backward({d, s, grad.data(), x.data(), to, pool_of<3>()}); });
  });
}

}  // namespace

DRIVE(spp) {
  for (const Sizes& z : kSizes)
    for (bool channels_last : {false, true}) {
      for_each_type([&](auto t) { run<decltype(t)>(z, channels_last, true); });
      run<double>(z, channels_last, false);  // fp64 has no CUDA kernels
    }
}

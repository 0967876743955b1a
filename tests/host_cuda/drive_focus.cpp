#include "../../csrc/cpu/focus.h"
#include "../../csrc/cuda/focus.h"
#include "drive.h"

using namespace drive;

namespace {

struct Sizes {
  int64_t N, C, H, W;  // of a quarter
};

const Sizes kSizes[] = {
    {2, 3, 3, 5},    // rows of single elements; pixels of 6, 12, 24 bytes
    {1, 3, 2, 8},    // rows of whole vectors
    {2, 1, 2, 3},    // pixels of one element
    {1, 2, 1, 1},    // one square
    {1, 8, 2, 7},    // pixels of whole 16 bytes
    {1, 33, 2, 3},   // pixels of more than 32 bytes, odd
    {1, 3, 12, 70},  // several blocks
    {0, 3, 2, 2},    // no images
};

template <class T>
void run(const Sizes& z, bool channels_last, bool cuda) {
  ck::FocusShape s{z.N, z.C, z.H, z.W, int(sizeof(T)), channels_last, false};
  Buffer<T> image(s.elements()), quarters(s.elements());
  T next = 1;
  const auto at = [&](int64_t channels, int64_t rows, int64_t columns, int64_t n, int64_t c, int64_t i, int64_t j) {
    return channels_last ? ((n * rows + i) * columns + j) * channels + c
                         : ((n * channels + c) * rows + i) * columns + j;
  };
  for (int64_t i = 0; i < image.n; ++i) image[i] = next++;
  for (int64_t n = 0; n < z.N; ++n)
    for (int64_t k = 0; k < 4; ++k)
      for (int64_t c = 0; c < z.C; ++c)
        for (int64_t i = 0; i < z.H; ++i)
          for (int64_t j = 0; j < z.W; ++j)
            quarters[at(4 * z.C, z.H, z.W, n, k * z.C + c, i, j)] =
                image[at(z.C, 2 * z.H, 2 * z.W, n, c, 2 * i + k % 2, 2 * j + k / 2)];

  for (bool inverse : {false, true}) {
    s.inverse = inverse;
    const Buffer<T>&from = inverse ? quarters : image, &want = inverse ? image : quarters;
    char name[96];
    std::snprintf(name, sizeof name, "%s size %zu N%d C%d %dx%d %s", inverse ? "inverse" : "forward", sizeof(T),
                  int(z.N), int(z.C), int(z.H), int(z.W), channels_last ? "channels_last" : "nchw");
    const auto output = [&](auto&& move) {
      Buffer<T> to(s.elements());
      move(to.data());
      expect(name, std::memcmp(to.data(), want.data(), to.n * sizeof(T)) == 0);
    };
    if (cuda) output([&](void* to) { expect("launch", ck::cuda::focus(s, from.data(), to, nullptr) == cudaSuccess); });
    for_each_isa([&] { output([&](void* to) { ck::cpu::focus({s, from.data(), to, pool_of<3>()}); }); });
  }
}

}  // namespace

DRIVE(focus) {
  for (const Sizes& z : kSizes)
    for (bool channels_last : {false, true}) {
      run<uint16_t>(z, channels_last, true);
      run<uint32_t>(z, channels_last, true);
      run<uint64_t>(z, channels_last, false);  // fp64 has no CUDA kernels
    }
}

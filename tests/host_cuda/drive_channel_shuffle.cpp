#include "../../csrc/cpu/channel_shuffle.h"
#include "../../csrc/cuda/channel_shuffle.h"
#include "drive.h"

using namespace drive;

namespace {

struct Sizes {
  int64_t N, HW, a, b, left, right, groups;
};

const Sizes kSizes[] = {
    {2, 15, 6, 0, 6, 0, 3},          // odd planes: single elements
    {1, 49, 5, 7, 3, 9, 4},          // unequal halves in and out
    {2, 6, 4, 2, 6, 0, 2},           // two in, one out; planes of 12 and 24 bytes
    {3, 1, 8, 0, 8, 0, 2},           // planes of one pixel
    {2, 16, 29, 29, 29, 29, 2},      // 16-byte planes, odd channels
    {1, 7, 1, 2, 2, 1, 3},           // one channel per group
    {1, 9, 10, 0, 10, 0, 1},         // one group: a copy
    {1, 1100, 2, 2, 2, 2, 2},        // planes of several blocks
    {2, 37, 300, 212, 256, 256, 2},  // long pixels
    {0, 4, 4, 0, 4, 0, 2},           // no images
};

// Where element p of channel c of image n is in a pair of tensors.
template <class T>
T& element(Buffer<T> (&pair)[2], const int64_t (&channels)[2], const ck::ShuffleShape& s, int64_t n, int64_t c,
           int64_t p) {
  const int which = c >= channels[0];
  const int64_t C = channels[which], k = c - which * channels[0];
  return pair[which][s.channels_last ? (n * s.HW + p) * C + k : (n * C + k) * s.HW + p];
}

template <class T>
bool same(const Buffer<T> (&a)[2], const Buffer<T> (&b)[2]) {
  return std::memcmp(a[0].data(), b[0].data(), a[0].n * sizeof(T)) == 0 &&
         std::memcmp(a[1].data(), b[1].data(), a[1].n * sizeof(T)) == 0;
}

template <class T>
void run(const Sizes& z, bool channels_last, bool cuda) {
  const ck::ShuffleShape s{z.N, z.HW, {z.a, z.b}, {z.left, z.right}, z.groups, int(sizeof(T)), channels_last};
  const int64_t C = s.channels(), pixels = z.N * z.HW;
  Buffer<T> in[2]{Buffer<T>(pixels * z.a), Buffer<T>(pixels * z.b)};
  Buffer<T> want[2]{Buffer<T>(pixels * z.left), Buffer<T>(pixels * z.right)};
  T next = 1;
  for (auto& t : in)
    for (int64_t i = 0; i < t.n; ++i) t[i] = next++;
  for (int64_t n = 0; n < z.N; ++n)
    for (int64_t c = 0; c < C; ++c)
      for (int64_t p = 0; p < z.HW; ++p)
        element(want, s.out_channels, s, n, c, p) =
            element(in, s.in_channels, s, n, c % z.groups * (C / z.groups) + c / z.groups, p);

  char name[96];
  std::snprintf(name, sizeof name, "size %zu N%d HW%d %d+%d -> %d+%d g%d %s", sizeof(T), int(z.N), int(z.HW), int(z.a),
                int(z.b), int(z.left), int(z.right), int(z.groups), channels_last ? "channels_last" : "nchw");
  const void* const from[2] = {in[0].data(), z.b ? in[1].data() : nullptr};
  const auto outputs = [&](auto&& move) {
    Buffer<T> out[2]{Buffer<T>(pixels * z.left), Buffer<T>(pixels * z.right)};
    void* const to[2] = {out[0].data(), z.right ? out[1].data() : nullptr};
    move(to);
    expect(name, same(out, want));
  };
  if (cuda) {
    outputs([&](void* const* to) {
      void* const pair[2] = {to[0], to[1]};
      expect("launch", ck::cuda::channel_shuffle(s, from, pair, nullptr) == cudaSuccess);
    });
  }
  for_each_isa([&] {
    outputs([&](void* const* to) {
      ck::cpu::channel_shuffle({s, {from[0], from[1]}, {to[0], to[1]}, ck::cpu::serial_pool()});
    });
  });
}

}  // namespace

DRIVE(channel_shuffle) {
  for (const Sizes& z : kSizes)
    for (bool channels_last : {false, true}) {
      run<uint16_t>(z, channels_last, true);
      run<uint32_t>(z, channels_last, true);
      run<uint64_t>(z, channels_last, false);  // fp64 has no CUDA kernels
    }
}

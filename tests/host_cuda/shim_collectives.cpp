// hostcuda's warp collectives and votes, each against what the CUDA programming guide says lane by lane.
#include <vector>

#include "../../csrc/cuda/device/ck_cuda.cuh"
#include "drive.h"

using namespace drive;

namespace {

enum Shuffle { Index, Up, Down, Xor };

// Lane whose value `lane` receives; itself where the source is outside its segment of `width` lanes.
int source(Shuffle kind, int lane, int a, int width) {
  const int first = lane / width * width, last = first + width - 1;
  switch (kind) {
    case Index: return first + a % width;
    case Up: return lane - a < first ? lane : lane - a;
    case Down: return lane + a > last ? lane : lane + a;
    default: return (lane ^ a) > last ? lane : lane ^ a;
  }
}

template <class T, Shuffle KIND> __global__ void shuffle_kernel(const T* in, T* out, int a, int width) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if constexpr (KIND == Index) out[i] = __shfl_sync(0xffffffffu, in[i], a, width);
  if constexpr (KIND == Up) out[i] = __shfl_up_sync(0xffffffffu, in[i], a, width);
  if constexpr (KIND == Down) out[i] = __shfl_down_sync(0xffffffffu, in[i], a, width);
  if constexpr (KIND == Xor) out[i] = __shfl_xor_sync(0xffffffffu, in[i], a, width);
}

template <class T, Shuffle KIND> void check_shuffle(const char* what) {
  std::vector<T> in(64), out(64);
  for (int i = 0; i < 64; ++i) in[i] = T(float(i + 1));
  bool ok = true;
  for (int width : {32, 16, 8, 2})
    for (int a = 0; a < width; ++a) {
      ck::launch(shuffle_kernel<T, KIND>, dim3(1), dim3(64), 0, nullptr, in.data(), out.data(), a, width);
      for (int i = 0; i < 64; ++i) ok &= float(out[i]) == float(in[i / 32 * 32 + source(KIND, i % 32, a, width)]);
    }
  expect(what, ok);
}

template <class T> void check_shuffles() {
  check_shuffle<T, Index>("__shfl_sync");
  check_shuffle<T, Up>("__shfl_up_sync");
  check_shuffle<T, Down>("__shfl_down_sync");
  check_shuffle<T, Xor>("__shfl_xor_sync");
}

struct Votes {
  unsigned ballot, match, reduce_and, reduce_or, reduce_xor, reduce_minu, reduce_maxu;
  int any, all, sum, low, high;
};

// Only lanes of `mask` take part.
__global__ void vote_kernel(unsigned mask, const int* in, Votes* out) {
  const int lane = threadIdx.x & 31;
  if (!(mask >> lane & 1)) return;
  const int v = in[threadIdx.x];
  Votes& o = out[threadIdx.x];
  o.ballot = __ballot_sync(mask, v > 0);
  o.any = __any_sync(mask, v > 0);
  o.all = __all_sync(mask, v > 0);
  o.match = __match_any_sync(mask, v);
  o.sum = __reduce_add_sync(mask, v);
  o.low = __reduce_min_sync(mask, v);
  o.high = __reduce_max_sync(mask, v);
  o.reduce_and = __reduce_and_sync(mask, unsigned(v));
  o.reduce_or = __reduce_or_sync(mask, unsigned(v));
  o.reduce_xor = __reduce_xor_sync(mask, unsigned(v));
  o.reduce_minu = __reduce_min_sync(mask, unsigned(v));
  o.reduce_maxu = __reduce_max_sync(mask, unsigned(v));
}

void check_votes(unsigned mask, const std::vector<int>& in) {
  Votes want{};
  want.all = 1, want.low = INT32_MAX, want.high = INT32_MIN, want.reduce_and = want.reduce_minu = ~0u;
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    const int v = in[i];
    want.ballot |= unsigned(v > 0) << i;
    want.any |= v > 0, want.all &= v > 0, want.sum += v;
    want.low = std::min(want.low, v), want.high = std::max(want.high, v);
    want.reduce_and &= v, want.reduce_or |= v, want.reduce_xor ^= v;
    want.reduce_minu = std::min(want.reduce_minu, unsigned(v)),
    want.reduce_maxu = std::max(want.reduce_maxu, unsigned(v));
  }
  std::vector<Votes> got(32);
  ck::launch(vote_kernel, dim3(1), dim3(32), 0, nullptr, mask, in.data(), got.data());
  bool ok = true;
  for (int i = 0; i < 32; ++i) {
    if (!(mask >> i & 1)) continue;
    want.match = 0;
    for (int j = 0; j < 32; ++j) want.match |= unsigned((mask >> j & 1) && in[j] == in[i]) << j;
    ok &= std::memcmp(&got[i], &want, sizeof want) == 0;
  }
  expect("votes and reductions", ok);
}

// Two halves of a warp at different collectives at the same time, each with its own mask.
__global__ void halves_kernel(int* out) {
  const int lane = threadIdx.x;
  if (lane < 16) out[lane] = __shfl_xor_sync(0x0000ffffu, lane, 1);
  else out[lane] = __reduce_add_sync(0xffff0000u, 1);
}

__global__ void partial_warp_kernel(int* out) { out[threadIdx.x] = __popc(__ballot_sync(0xffffffffu, 1)); }

__global__ void absent_source_kernel(unsigned* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0x0000ffffu, threadIdx.x, 20);
}

template <int OP> __global__ void block_vote_kernel(const int* in, int* out) {
  const int p = in[threadIdx.x];
  out[threadIdx.x] = OP == 0 ? __syncthreads_count(p) : OP == 1 ? __syncthreads_and(p) : __syncthreads_or(p);
}

}  // namespace

DRIVE(shuffles) {
  check_shuffles<float>();
  check_shuffles<double>();
  check_shuffles<int>();
  check_shuffles<int64_t>();
  check_shuffles<__half>();
  check_shuffles<__nv_bfloat16>();
}

DRIVE(votes) {
  std::vector<int> mixed(32), same(32, 3);
  for (int i = 0; i < 32; ++i) mixed[i] = i % 3 == 0 ? -i : i % 5;
  for (unsigned mask : {0xffffffffu, 0x0000ffffu, 0x80000001u, 0x00f0f0f0u})
    for (const auto& in : {mixed, same, std::vector<int>(32, -1), std::vector<int>(32, 0)}) check_votes(mask, in);
}

DRIVE(divided_warps) {
  std::vector<int> out(40);
  ck::launch(halves_kernel, dim3(1), dim3(32), 0, nullptr, out.data());
  bool ok = true;
  for (int i = 0; i < 32; ++i) ok &= out[i] == (i < 16 ? (i ^ 1) : 16);
  expect("two collectives of one warp", ok);

  ck::launch(partial_warp_kernel, dim3(1), dim3(40), 0, nullptr, out.data());
  for (int i = 0; i < 40; ++i) ok &= out[i] == (i < 32 ? 32 : 8);
  expect("a partial last warp under a full mask", ok);

  std::vector<unsigned> seen(16);
  ck::launch(absent_source_kernel, dim3(1), dim3(32), 0, nullptr, seen.data());
  for (unsigned v : seen) ok &= v == 0xffffffffu;
  expect("a source lane outside the mask gives a recognisable value", ok);
}

DRIVE(block_votes) {
  std::vector<int> out(70);
  for (int zeros : {0, 1, 70}) {
    std::vector<int> in(70, 5);
    for (int i = 0; i < zeros; ++i) in[i] = 0;
    bool ok = true;
    ck::launch(block_vote_kernel<0>, dim3(1), dim3(70), 0, nullptr, in.data(), out.data());
    for (int v : out) ok &= v == 70 - zeros;
    ck::launch(block_vote_kernel<1>, dim3(1), dim3(70), 0, nullptr, in.data(), out.data());
    for (int v : out) ok &= (v != 0) == (zeros == 0);
    ck::launch(block_vote_kernel<2>, dim3(1), dim3(70), 0, nullptr, in.data(), out.data());
    for (int v : out) ok &= (v != 0) == (zeros < 70);
    expect("__syncthreads_count, _and, _or", ok);
  }
}

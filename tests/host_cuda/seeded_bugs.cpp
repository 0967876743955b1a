// Kernels with one known bug each, to prove that the builds notice what they are there for: seeded_<kind> BUG runs one,
// with BUG 0 the correct kernels.  tests/test_host_cuda.py says which build must report which.
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "../../csrc/cuda/device/ck_cuda.cuh"

namespace {

enum Bug { None, NoBarrier, OutOfBounds, DivergentBarrier, Unwritten, HalfWarp, NoAtomic, SharedOverrun };
constexpr int kThreads = 96, kBlocks = 4;

// out[block] = sum of the block's inputs; *count = number of positive inputs.
template <int BUG> __global__ void block_sum_kernel(const float* __restrict__ x, float* out, int* count) {
  CK_SHARED(part, float[kThreads / 32]);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  float v = x[blockIdx.x * kThreads + threadIdx.x];
  const unsigned positive = __ballot_sync(0xffffffffu, v > 0.f);
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(0xffffffffu, v, o);
  if (lane == 0 && (BUG != Unwritten || warp != 1)) part[BUG == SharedOverrun ? warp + 1 : warp] = v;
  if (lane == 0) {
    if (BUG == NoAtomic) *count += __popc(positive);
    else atomicAdd(count, __popc(positive));
  }
  if (BUG == DivergentBarrier) {
    if (warp == 0) __syncthreads();
  } else if (BUG != NoBarrier) {
    __syncthreads();
  }
  if (warp == 0) {
    float sum = lane < kThreads / 32 ? part[lane] : 0.f;
    if (BUG != HalfWarp || lane < 16)
      for (int o = 2; o; o >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, o);
    if (lane == 0) out[blockIdx.x + (BUG == OutOfBounds ? 1 : 0)] = sum;
  }
}

template <int BUG> int run() {
  const int n = kThreads * kBlocks;
  const std::unique_ptr<float[]> x(new float[n]), out(new float[kBlocks]);
  for (int i = 0; i < n; ++i) x[i] = float(i % 7 - 3);
  for (int b = 0; b < kBlocks; ++b) out[b] = -1.f;
  int count = 0, positive = 0;
  ck::launch(block_sum_kernel<BUG>, dim3(kBlocks), dim3(kThreads), 0, nullptr, x.get(), out.get(), &count);
  bool ok = true;
  for (int b = 0; b < kBlocks; ++b) {
    float want = 0;
    for (int i = 0; i < kThreads; ++i) want += x[b * kThreads + i], positive += x[b * kThreads + i] > 0;
    ok &= out[b] == want;
  }
  ok &= count == positive;
  std::puts(ok ? "right result" : "wrong result");
  return !ok;
}

}  // namespace

int main(int argc, char** argv) {
  int (*const runs[])() = {run<0>, run<1>, run<2>, run<3>, run<4>, run<5>, run<6>, run<7>};
  const int bug = argc == 2 ? std::atoi(argv[1]) : 0;
  if (bug < 0 || bug > 7) return 3;
  try {
    return runs[bug]();
  } catch (const hostcuda::Error& e) {
    std::printf("hostcuda: %s\n", e.what());
    return 2;
  }
}

// hostcuda's blocks: indices, order, shared memory, barriers, atomics, limits, and the errors it must report.
#include <algorithm>
#include <numeric>
#include <vector>

#include "../../csrc/cuda/device/ck_cuda.cuh"
#include "drive.h"

using namespace drive;

namespace {

template <class F> void expect_error(const char* what, const char* message, F&& f) {
  try {
    f();
    expect(what, !"no error was reported");
  } catch (const hostcuda::Error& e) {
    const bool ok = std::strstr(e.what(), message) != nullptr;
    if (!ok) std::printf("  got: %s\n", e.what());
    expect(what, ok);
  }
}

__global__ void count_visits_kernel(int* visits) {
  const dim3 g = gridDim, b = blockDim;
  const unsigned block = (blockIdx.z * g.y + blockIdx.y) * g.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * b.y + threadIdx.y) * b.x + threadIdx.x;
  ++visits[block * (b.x * b.y * b.z) + thread];
}

__global__ void order_kernel(int* next, int* order) { order[atomicAdd(next, 1)] = threadIdx.x; }

__global__ void reverse_kernel(const int* in, int* out, int n) {
  CK_SHARED(tile, int[96]);
  CK_DYN_SHARED(copy, int);
  tile[threadIdx.x] = in[blockIdx.x * n + threadIdx.x];
  __syncthreads();
  copy[threadIdx.x] = tile[n - 1 - threadIdx.x];
  __syncthreads();
  out[blockIdx.x * n + threadIdx.x] = copy[threadIdx.x];
}

__global__ void read_poison_kernel(unsigned* out) {
  CK_SHARED(a, unsigned[4]);
  CK_DYN_SHARED(b, unsigned);
  out[2 * blockIdx.x] = a[3], out[2 * blockIdx.x + 1] = b[1];
  a[3] = b[1] = 7;  // the next block must not find it
}

template <int BYTES> __global__ void static_shared_kernel() {
  CK_SHARED(a, char[BYTES]);
  a[0] = 1;
}

__global__ void dynamic_shared_kernel(uintptr_t* address) {
  CK_DYN_SHARED(a, char);
  *address = reinterpret_cast<uintptr_t>(a);
}

__global__ void overrun_kernel(int i) {
  CK_SHARED(a, int[8]);
  a[i] = 1;
}

__global__ void atomics_kernel(int* i, float* f, unsigned long long* u, __half* h, unsigned* wrapped) {
  const int t = threadIdx.x;
  atomicAdd(&i[0], t), atomicSub(&i[1], 1), atomicMax(&i[2], t), atomicMin(&i[3], -t);
  atomicOr(&i[4], 1 << (t % 8)), atomicAnd(&i[5], ~(1 << (t % 8))), atomicXor(&i[6], 1);
  if (atomicCAS(&i[7], 0, t + 1) == 0) atomicExch(&i[8], t);
  atomicAdd(f, 0.5f), atomicAdd(u, 1ull << 33), atomicAdd(h, __float2half(1.f));
  atomicInc(wrapped, 9u);
}

__global__ void divergent_barrier_kernel() {
  if (threadIdx.x < 32) __syncthreads();
}
__global__ void exit_before_barrier_kernel() {
  if (threadIdx.x == 5) return;
  __syncthreads();
}
__global__ void two_barriers_kernel() {
  if (threadIdx.x < 32) __syncthreads();
  else __syncthreads();
}
__global__ void half_warp_kernel(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}
__global__ void not_in_mask_kernel() { __syncwarp(0x1u); }
__global__ void dead_lane_kernel() {
  if (threadIdx.x == 0) return;
  __syncwarp(0xffffffffu);
}
__global__ void mixed_collectives_kernel(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __any_sync(0xffffffffu, 1);
  else out[threadIdx.x] = __all_sync(0xffffffffu, 1);
}
__global__ void waits_for_each_other_kernel() {
  if (threadIdx.x < 32) __syncwarp(0xffffffffu);
  else if (threadIdx.x < 48) __syncwarp(0xffffffffu);
  else __syncthreads();
}
__global__ void trap_kernel() { __trap(); }
__global__ void nothing_kernel() {}

struct WithOrder {
  explicit WithOrder(hostcuda::Order o, uint64_t seed = 0) : before(hostcuda::options()) {
    hostcuda::options().order = o, hostcuda::options().seed = seed;
  }
  ~WithOrder() { hostcuda::options() = before; }
  hostcuda::Options before;
};

std::vector<int> order_of(hostcuda::Order o, uint64_t seed = 0) {
  const WithOrder with(o, seed);
  std::vector<int> order(50, -1);
  int next = 0;
  ck::launch(order_kernel, dim3(1), dim3(50), 0, nullptr, &next, order.data());
  return order;
}

template <class K, class... A> auto launching(K kernel, dim3 grid, dim3 block, size_t smem, A... a) {
  return [=] { ck::launch(kernel, grid, block, smem, nullptr, a...); };
}

}  // namespace

DRIVE(indices) {
  const dim3 grid(3, 2, 4), block(5, 3, 2);
  std::vector<int> visits(24 * 30);
  ck::launch(count_visits_kernel, grid, block, 0, nullptr, visits.data());
  expect("every thread of every block runs once",
         std::all_of(visits.begin(), visits.end(), [](int v) { return v == 1; }));
}

DRIVE(order) {
  std::vector<int> forward(50);
  std::iota(forward.begin(), forward.end(), 0);
  const std::vector<int> reverse(forward.rbegin(), forward.rend());
  expect("forward", order_of(hostcuda::Order::Forward) == forward);
  expect("reverse", order_of(hostcuda::Order::Reverse) == reverse);
  const auto random = order_of(hostcuda::Order::Random, 3);
  expect("random is another order", random != forward && random != reverse);
  expect("random is the same for a seed", random == order_of(hostcuda::Order::Random, 3));
  expect("random is another for another seed", random != order_of(hostcuda::Order::Random, 4));
  expect("random is complete", std::is_permutation(random.begin(), random.end(), forward.begin()));
}

DRIVE(shared_memory) {
  const int n = 96, blocks = 3;
  std::vector<int> in(n * blocks), out(n * blocks);
  std::iota(in.begin(), in.end(), 0);
  for (auto o : {hostcuda::Order::Forward, hostcuda::Order::Reverse, hostcuda::Order::Random}) {
    const WithOrder with(o, 1);
    ck::launch(reverse_kernel, dim3(blocks), dim3(n), n * sizeof(int), nullptr, in.data(), out.data(), n);
    bool ok = true;
    for (int i = 0; i < n * blocks; ++i) ok &= out[i] == in[i / n * n + n - 1 - i % n];
    expect("static and dynamic shared memory with barriers", ok);
  }
  std::vector<unsigned> seen(2 * blocks);
  ck::launch(read_poison_kernel, dim3(blocks), dim3(1), 8, nullptr, seen.data());
  for (unsigned v : seen) expect("every block starts with poisoned shared memory", v == 0xffffffffu);
  uintptr_t address = 1;
  ck::launch(dynamic_shared_kernel, dim3(1), dim3(1), 100, nullptr, &address);
  expect("dynamic shared memory is 16-byte aligned", address % 16 == 0);
}

DRIVE(shared_limits) {
  const dim3 one(1);
  ck::launch(static_shared_kernel<48 * 1024>, one, one, 0, nullptr);
  expect_error("49 KiB static", "shared memory over", launching(static_shared_kernel<49 * 1024>, one, one, 0));
  expect_error("40 KiB static + 9 KiB dynamic", "shared memory over",
               launching(static_shared_kernel<40 * 1024>, one, one, 9 * 1024));
  uintptr_t address = 0;
  const auto big = launching(dynamic_shared_kernel, one, one, 64 * 1024, &address);
  expect_error("64 KiB dynamic without leave", "bad launch configuration", big);
  cudaFuncSetAttribute(dynamic_shared_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 64 * 1024);
  big();
  expect_error("dynamic shared memory that the launch did not give", "the launch gave none",
               launching(dynamic_shared_kernel, one, one, 0, &address));
#if !defined(__SANITIZE_ADDRESS__)  // which reports it itself, and ends the program
  ck::launch(overrun_kernel, one, one, 0, nullptr, 7);
  expect_error("a write past the end", "past the end of shared array a", launching(overrun_kernel, one, one, 0, 8));
#endif
}

DRIVE(atomics) {
  const int n = 300, blocks = 2, all = n * blocks;
  int i[9] = {0, 0, -1, 1, 0, 0xff, 0, 0, -1};
  float f = 0;
  unsigned long long u = 0;
  __half h = __float2half(0.f);
  unsigned wrapped = 0;
  ck::launch(atomics_kernel, dim3(blocks), dim3(n), 0, nullptr, i, &f, &u, &h, &wrapped);
  expect("atomicAdd", i[0] == blocks * n * (n - 1) / 2 && f == all * 0.5f && u == (unsigned long long)all << 33);
  expect("atomicAdd of half", __half2float(h) == all);
  expect("atomicSub, Max, Min", i[1] == -all && i[2] == n - 1 && i[3] == 1 - n);
  expect("atomicOr, And, Xor", i[4] == 0xff && i[5] == 0 && i[6] == all % 2);
  expect("atomicCAS and Exch: one winner", i[7] >= 1 && i[8] == i[7] - 1);
  expect("atomicInc wraps", wrapped == unsigned(all % 10));
}

DRIVE(errors) {
  const dim3 one(1), warp(32), two(64);
  std::vector<int> out(64);
  expect_error("divergent barrier", "reached by 32 of 64 threads", launching(divergent_barrier_kernel, one, two, 0));
  expect_error("exit before a barrier", "reached by 63 of 64 threads",
               launching(exit_before_barrier_kernel, one, two, 0));
  expect_error("two barriers", "wait at different barriers", launching(two_barriers_kernel, one, two, 0));
  expect_error("half a warp, full mask", "exited, but the collective",
               launching(half_warp_kernel, one, warp, 0, out.data()));
  expect_error("lane outside its mask", "not in its own mask", launching(not_in_mask_kernel, one, warp, 0));
  expect_error("exited lane named", "names lanes that have exited", launching(dead_lane_kernel, one, warp, 0));
  expect_error("two collectives, one mask", "meet different collectives",
               launching(mixed_collectives_kernel, one, warp, 0, out.data()));
  expect_error("deadlock", "deadlock", launching(waits_for_each_other_kernel, one, two, 0));
  expect_error("__trap", "__trap", launching(trap_kernel, one, one, 0));
  expect_error("too many threads", "bad launch configuration", launching(nothing_kernel, one, dim3(1025), 0));
  expect_error("grid.y", "bad launch configuration", launching(nothing_kernel, dim3(1, 65536), one, 0));
  expect_error("empty grid", "bad launch configuration", launching(nothing_kernel, dim3(0), one, 0));
  int visits[32] = {};  // and after all these, a correct kernel runs
  ck::launch(count_visits_kernel, one, warp, 0, nullptr, visits);
  expect("usable after errors", std::all_of(visits, visits + 32, [](int v) { return v == 1; }));
}

DRIVE(exits_allowed_when_not_strict) {
  hostcuda::options().strict = false;
  ck::launch(exit_before_barrier_kernel, dim3(1), dim3(64), 0, nullptr);
  hostcuda::options().strict = true;
}

DRIVE(scalars) {
  expect("__popc", __popc(0xf0f0u) == 8 && __popcll(1ull << 40 | 1) == 2);
  expect("__ffs", __ffs(0) == 0 && __ffs(8) == 4 && __ffsll(1ll << 40) == 41);
  expect("__clz", __clz(0) == 32 && __clz(1) == 31 && __clzll(1) == 63);
  expect("__brev", __brev(1u) == 0x80000000u && __brevll(1ull) == 1ull << 63);
  expect("__umulhi", __umulhi(0x80000000u, 6u) == 3u && __umul64hi(1ull << 63, 6) == 3);
  expect("bits", __uint_as_float(__float_as_uint(1.5f)) == 1.5f && __int_as_float(__float_as_int(-2.f)) == -2.f);
  expect("rounded once",
         __fmaf_rn(1.f + 0x1p-12f, 1.f + 0x1p-12f, -1.f) == std::fma(1.f + 0x1p-12f, 1.f + 0x1p-12f, -1.f));
  expect("_rn arithmetic", __fadd_rn(1.f, 2.f) == 3.f && __fsub_rn(1.f, 2.f) == -1.f && __fmul_rn(2.f, 3.f) == 6.f &&
                               __fdiv_rn(1.f, 4.f) == 0.25f && __frcp_rn(4.f) == 0.25f && __fsqrt_rn(9.f) == 3.f);
  const __half2 two = __floats2half2_rn(2.f, 3.f), r = __hfma2(two, two, two);
  expect("__hfma2", __low2float(r) == 6.f && __high2float(r) == 12.f);
  float device[4] = {1, 1, 1, 1};
  expect("cudaMemsetAsync",
         cudaMemsetAsync(device, 0, 8, nullptr) == cudaSuccess && device[1] == 0.f && device[2] == 1.f);
}

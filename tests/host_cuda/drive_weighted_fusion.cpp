#include "../../csrc/cpu/weighted_fusion.h"

#include <vector>

#include "../../csrc/cuda/weighted_fusion.h"
#include "drive.h"

using namespace drive;

namespace {

using ck::kMostMaps;

// The maps of a call, their gradients, and the pointers to both; null where there is no map.
template <class T>
struct Maps {
  Maps(int count, int64_t n) {
    for (int k = 0; k < count; ++k) {
      buffers.emplace_back(n);
      if (n > 0) buffers.back().random(10 + k, -4.f, 4.f);
    }
    for (int k = 0; k < count; ++k) pointers[k] = buffers[k].data();
  }
  std::vector<Buffer<T>> buffers;
  void* pointers[kMostMaps] = {};
};

template <class T>
void run(int64_t n, int maps, ck::Act act) {
  const ck::FusionShape s{DtypeOf<T>::value, maps, n};
  const double eps = 1e-4, slope = 0.1;
  Maps<T> x(maps, n), dx(maps, n);
  Buffer<T> grad(n), y(n);
  Buffer<float> weights(maps), dweights(maps), workspace(ck::cuda::weighted_fusion_workspace(s));
  grad.random(1), weights.random(2, -0.5f, 1.f);
  weights[0] = 0.75f;
  char name[96];
  std::snprintf(name, sizeof name, "size %zu n %d maps %d act %d", sizeof(T), int(n), maps, int(act));
  expect(name, ck::cuda::weighted_fusion_forward(s, x.pointers, weights.data(), y.data(), eps, act, slope, nullptr) ==
                   cudaSuccess);
  expect(name,
         ck::cuda::weighted_fusion_backward(s, grad.data(), x.pointers, weights.data(), dx.pointers, dweights.data(),
                                            workspace.data(), eps, act, slope, nullptr) == cudaSuccess);
  for_each_isa([&] {
    Maps<T> cdx(maps, n);
    Buffer<T> cy(n);
    Buffer<float> cdw(maps);
    ck::cpu::WeightedFusionArgs f{s, {}, weights.data(), cy.data(), eps, act, slope, pool_of<3>()};
    ck::cpu::WeightedFusionBackwardArgs b{s,          grad.data(), {},  weights.data(), {},
                                          cdw.data(), eps,         act, slope,          pool_of<3>()};
    for (int k = 0; k < maps; ++k) f.x[k] = b.x[k] = x.pointers[k], b.dx[k] = cdx.pointers[k];
    ck::cpu::weighted_fusion_forward(f);
    ck::cpu::weighted_fusion_backward(b);
    expect_close(name, cy, y, drive::eps<T>());
    for (int k = 0; k < maps; ++k) expect_close(name, cdx.buffers[k], dx.buffers[k], drive::eps<T>());
    expect_close(name, cdw, dweights, 1e-3);  // sums of up to 20,000 products of either sign, in two orders
  });
}

}  // namespace

DRIVE(weighted_fusion) {
  for_each_type([](auto t) {
    for (int64_t n : {0, 1, 7, 33, 1024, 20000})  // 20,000: several blocks, chunks and tasks, and a tail
      for (int maps = 2; maps <= kMostMaps; ++maps)
        for (ck::Act act : {ck::Act::identity, ck::Act::silu}) run<decltype(t)>(n, maps, act);
    for (int act = 0; act <= 8; ++act) run<decltype(t)>(100, 3, static_cast<ck::Act>(act));
  });
}

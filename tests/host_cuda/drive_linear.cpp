#include "../../csrc/cpu/linear.h"
#include "drive.h"

using namespace drive;

namespace {

void run(int64_t N, int64_t C, int64_t K, bool with_bias, ck::cpu::Pool pool) {
  Buffer<float> x(N * C), w(K * C), bias(K);
  x.random(1), w.random(2), bias.random(3);
  Buffer<double> want(N * K);
  for (int64_t n = 0; n < N; ++n)
    for (int64_t k = 0; k < K; ++k) {
      double u = with_bias ? bias.at(k) : 0;
      for (int64_t c = 0; c < C; ++c) u += x.at(n * C + c) * w.at(k * C + c);
      want[n * K + k] = u;
    }
  for_each_isa([&] {
    Buffer<float> y(N * K);
    ck::cpu::linear({x.data(), w.data(), with_bias ? bias.data() : nullptr, y.data(), N, C, K, pool});
    expect_close("linear", y, want, 1e-5);
  });
}

}  // namespace

DRIVE(linear) {
  for (const auto& pool : {ck::cpu::serial_pool(), pool_of<3>()})
    for (const int64_t N : {1, 2, 3, 7, 16})
      for (const int64_t C : {1, 8, 31, 200})
        for (const int64_t K : {1, 4, 7, 1000}) run(N, C, K, K != 4, pool);
}

#include "linear.h"

#include <algorithm>

#include "dense.h"

namespace ck::cpu::CK_ISA {

void linear(const LinearArgs& a) {
  constexpr int64_t kTaskWeights = 64 * 1024;  // to read: several times the cost of waking a thread
  parallel(a.pool, a.K, std::max<int64_t>(4, kTaskWeights / std::max<int64_t>(1, a.C)),
           [&](int64_t begin, int64_t end) { dense<float>(a.weight, a.bias, a.x, begin, end, a.C, a.N, a.y, a.K); });
}

}  // namespace ck::cpu::CK_ISA

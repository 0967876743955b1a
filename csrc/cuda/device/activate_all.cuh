// Activations whose name is known at run time only: for epilogues, where a template per activation is not worth its code.
#pragma once
#include "ck_cuda.cuh"

namespace ck::cuda {

// z = act(z) for N values, with the switch outside the loop.
template <int N>
__device__ __forceinline__ void activate_all(float* z, Act act, float slope) {
  auto all = [&](auto a) {
#pragma unroll
    for (int i = 0; i < N; ++i) z[i] = activate<decltype(a)::value>(z[i], slope);
  };
  switch (act) {
    case Act::identity: break;
    case Act::relu: all(std::integral_constant<Act, Act::relu>()); break;
    case Act::relu6: all(std::integral_constant<Act, Act::relu6>()); break;
    case Act::leaky_relu: all(std::integral_constant<Act, Act::leaky_relu>()); break;
    case Act::silu: all(std::integral_constant<Act, Act::silu>()); break;
    case Act::hard_swish: all(std::integral_constant<Act, Act::hard_swish>()); break;
    case Act::mish: all(std::integral_constant<Act, Act::mish>()); break;
    case Act::sigmoid: all(std::integral_constant<Act, Act::sigmoid>()); break;
    case Act::hard_sigmoid: all(std::integral_constant<Act, Act::hard_sigmoid>()); break;
  }
}

}  // namespace ck::cuda

// What the gradient of a batch norm behind the convolution is made of.
#pragma once
#include <cstdint>
#include <vector>

namespace ck::cpu::CK_ISA {
namespace {

template <class A>
struct Coefficients {  // what bn_grad_sums leaves, [C] each
  std::vector<A> memory;
  A *scale, *shift, *slant, *offset;
  explicit Coefficients(int64_t C)
      : memory(4 * C), scale(memory.data()), shift(scale + C), slant(shift + C), offset(slant + C) {}
};

}  // namespace
}  // namespace ck::cpu::CK_ISA

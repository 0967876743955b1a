// Scratch memory of a task.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace ck::cpu::CK_ISA {
namespace {

struct Free {
  void operator()(void* p) const { std::free(p); }
};
template <class A>
using Scratch = std::unique_ptr<A[], Free>;

// n zeros, aligned to a cache line.
template <class A>
Scratch<A> zeros(int64_t n) {
  const size_t bytes = (static_cast<size_t>(std::max<int64_t>(n, 1)) * sizeof(A) + 63) / 64 * 64;
  void* p = std::aligned_alloc(64, bytes);
  if (!p) throw std::bad_alloc();
  std::memset(p, 0, bytes);
  return Scratch<A>(static_cast<A*>(p));
}

}  // namespace
}  // namespace ck::cpu::CK_ISA

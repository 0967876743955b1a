// Scratch memory of a task, and memory that a thread keeps.
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

// n elements, aligned to a cache line.
template <class A>
Scratch<A> uninitialised(int64_t n) {
  const size_t bytes = (static_cast<size_t>(std::max<int64_t>(n, 1)) * sizeof(A) + 63) / 64 * 64;
  void* p = std::aligned_alloc(64, bytes);
  if (!p) throw std::bad_alloc();
  return Scratch<A>(static_cast<A*>(p));
}
template <class A>
Scratch<A> zeros(int64_t n) {
  Scratch<A> p = uninitialised<A>(n);
  std::memset(p.get(), 0, static_cast<size_t>(n) * sizeof(A));
  return p;
}

// n elements that a thread keeps between calls, aligned to a cache line; grows only.  Contents are whatever was there, or
// nothing if it had to grow.
template <class A>
[[maybe_unused]] A* kept(int which, int64_t n) {
  struct Kept {
    Scratch<A> memory;
    int64_t size = 0;
  };
  static thread_local Kept all[6];
  Kept& k = all[which];
  if (k.size < n) {
    k.memory.reset();
    k.size = 0;
    k.memory = uninitialised<A>(n);
    k.size = n;
  }
  return k.memory.get();
}

}  // namespace
}  // namespace ck::cpu::CK_ISA

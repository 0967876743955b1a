#include "isa.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace ck::cpu {
namespace {

Isa best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    return Isa::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    return Isa::avx2;
#endif
  return Isa::generic;
}

Isa at_most(Isa wanted) {
  static const Isa top = best();
  return static_cast<int>(wanted) < static_cast<int>(top) ? wanted : top;
}

Isa from_environment() {
  const char* e = std::getenv("CNNKERNELS_CPU_ISA");
  if (e && !std::strcmp(e, "generic")) return Isa::generic;
  if (e && !std::strcmp(e, "avx2")) return at_most(Isa::avx2);
  return at_most(Isa::avx512);
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> value{from_environment()};
  return value;
}

}  // namespace

Isa isa() { return current().load(std::memory_order_relaxed); }

Isa set_isa(Isa wanted) {
  current().store(at_most(wanted), std::memory_order_relaxed);
  return isa();
}

const char* isa_name(Isa i) {
  switch (i) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    default: return "generic";
  }
}

}  // namespace ck::cpu

// Instruction sets of the CPU kernels and how one is chosen.
//
// Every kernel source csrc/cpu/<op>.cpp is compiled once per instruction set with CK_ISA set to generic, avx2 or avx512
// (CMakeLists.txt sets the matching compiler flags) and puts its functions into namespace ck::cpu::CK_ISA.  The header
// csrc/cpu/<op>.h declares them with CK_CPU_KERNEL, which also defines the function that picks one at run time.
#pragma once

#if !defined(CK_ISA)
#define CK_ISA generic
#endif

namespace ck::cpu {

enum class Isa : int { generic = 0, avx2 = 1, avx512 = 2 };

// The best set that this CPU, this build and CNNKERNELS_CPU_ISA=generic|avx2|avx512 allow.  Read once.
Isa isa();
// Makes later calls use `wanted`, or the best below it that this CPU has; returns what is now in use.  For tests.
Isa set_isa(Isa wanted);
const char* isa_name(Isa i);

}  // namespace ck::cpu

#if defined(__x86_64__) && !defined(CK_CPU_GENERIC_ONLY)  // the macro: programs that link one set only
#define CK_CPU_KERNEL(name, Args)               \
  namespace ck::cpu {                           \
  namespace generic {                           \
  void name(const Args& a);                     \
  }                                             \
  namespace avx2 {                              \
  void name(const Args& a);                     \
  }                                             \
  namespace avx512 {                            \
  void name(const Args& a);                     \
  }                                             \
  inline void name(const Args& a) {             \
    switch (isa()) {                            \
      case Isa::avx512: return avx512::name(a); \
      case Isa::avx2: return avx2::name(a);     \
      default: return generic::name(a);         \
    }                                           \
  }                                             \
  }
#else
#define CK_CPU_KERNEL(name, Args)                       \
  namespace ck::cpu {                                   \
  namespace generic {                                   \
  void name(const Args& a);                             \
  }                                                     \
  inline void name(const Args& a) { generic::name(a); } \
  }
#endif

// What the scheduler in hostcuda.cpp keeps: contexts and how they are switched, fibers, warps, shared memory.  Included once.
#pragma once
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(HOSTCUDA_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

#include "hostcuda.h"

namespace hostcuda {
namespace {
// ---- context switch ------------------------------------------------------------------------------------------------
#if defined(__x86_64__)
extern "C" void hostcuda_switch(void** save_sp, void* load_sp);
asm(R"(
.text
.globl hostcuda_switch
.type hostcuda_switch,@function
hostcuda_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size hostcuda_switch,.-hostcuda_switch
)");
struct Context {
  void* sp = nullptr;
  void make(char* stack, size_t size, void (*entry)()) {
    void** p = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + size) & ~uintptr_t(15));
    *--p = nullptr;  // keeps the entry's stack 16-byte aligned + 8, as after a call
    *--p = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--p = nullptr;
    sp = p;
  }
  static void swap(Context& from, Context& to) { hostcuda_switch(&from.sp, to.sp); }
};
#else
struct Context {
  ucontext_t u;
  void make(char* stack, size_t size, void (*entry)()) {
    getcontext(&u);
    u.uc_stack.ss_sp = stack;
    u.uc_stack.ss_size = size;
    u.uc_link = nullptr;
    makecontext(&u, entry, 0);
  }
  static void swap(Context& from, Context& to) { swapcontext(&from.u, &to.u); }
};
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(HOSTCUDA_TSAN)
constexpr size_t kStack = 256 << 10;
#else
constexpr size_t kStack = 64 << 10;
#endif
constexpr char kRedzoneByte = 0x5a;
constexpr size_t kRedzone = 64, kMaxStaticShared = 48 << 10, kMaxDynShared = 227 << 10;

enum class State { Ready, AtBlockBarrier, AtWarp, Done };

struct Fiber {
  Thread t;
  Context ctx;
  State state = State::Ready;
  Site site{};
  int pred = 0, bar_result = 0;
  uint64_t warp_result = 0;
  char* stack = nullptr;  // the scheduler's
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
#endif
#if defined(HOSTCUDA_TSAN)
  void* tsan = nullptr;
#endif
};

struct Pending {  // one warp collective under way
  unsigned mask, arrived = 0;
  WarpOp op;
  int width;
  Site site;
  uint64_t value[32];
  int arg[32];
};
struct Warp {
  Pending pending[32];
  int np = 0;
  unsigned live = 0;
};
struct SharedVar {
  const void* key;
  char* base;
  size_t bytes;
  const char* name;
};
void fill(void* p, int byte, size_t n) {  // memset that no sanitizer sees
#if defined(__x86_64__)
  asm volatile("rep stosb" : "+D"(p), "+c"(n) : "a"(byte) : "memory");
#else
  for (volatile char* q = static_cast<char*>(p); n--;) *q++ = (char)byte;
#endif
}
// Under TSan every block gets fresh shared memory from a pool, so that a race between blocks (global memory) is
// told from the reuse of shared memory; elsewhere all blocks share one arena.
#if defined(HOSTCUDA_TSAN)
constexpr size_t kArena = 64 << 20;
#else
constexpr size_t kArena = kMaxStaticShared + kMaxDynShared + 64 * kRedzone;
#endif

struct Scheduler {
  Context main;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<std::unique_ptr<char[]>> stacks;
  std::vector<Warp> warps;
  std::vector<int> ready, batch;
  int n = 0, alive = 0, at_barrier = 0;
  BarOp bar_op{};
  Site bar_site{};
  const std::function<void()>* body = nullptr;
  Fiber* running = nullptr;
  std::string error;
  bool failed = false;
  std::mt19937_64 rng;
  std::vector<char> arena;
  size_t arena_used = 0;
  SharedVar shared[64];
  int n_shared = 0;
  char* dyn = nullptr;
  size_t dyn_bytes = 0, shared_limit = 0;
  char tag_block = 0;  // addresses for TSan's happens-before
#if defined(__SANITIZE_ADDRESS__)
  const void* main_bottom = nullptr;
  size_t main_size = 0;
  void* main_fake = nullptr;
#endif
#if defined(HOSTCUDA_TSAN)
  void* main_tsan = nullptr;
  // Creating a TSan fiber costs 0.5 ms, so blocks use the halves of a pool in turn, shuffled: neighbouring blocks are
  // then always different "threads" to TSan.  A stack stays with its TSan fiber, whose own earlier writes are no race.
  struct TsanThread {
    void* fiber = nullptr;
    std::unique_ptr<char[]> stack;
  };
  std::vector<TsanThread> tsan_pool;
  std::mt19937_64 tsan_rng;
  int tsan_half = 0;
#endif
};
thread_local Scheduler* tl_s = nullptr;  // never freed: unfinished fibers may still point into it
Scheduler& S() { return *tl_s; }
}  // namespace
}  // namespace hostcuda

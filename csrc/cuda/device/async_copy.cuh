// Copies from global to shared memory that go on while the thread computes: cp.async, sm_80 and later.
#pragma once
#include "ck_cuda.cuh"

namespace ck {

// A thread's own copies, in groups.  Others see what arrived after wait() and a barrier.
class AsyncCopies {
 public:
  // 4, 8 or 16 bytes from a place aligned to as many, or as many zeros.
  template <int BYTES = 16>
  __device__ void copy(void* to, const void* from, bool there) {
#if defined(CK_HOST_CUDA)
    if (count_ == kPending) ::hostcuda::fail("more asynchronous copies under way than AsyncCopies remembers");
    pending_[count_++] = {to, from, BYTES, there, group_};
#else
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(to));
    if constexpr (BYTES == 16)  // past the L1 cache
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from), "r"(there ? 16 : 0)
                   : "memory");
    else
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from), "n"(BYTES),
                   "r"(there ? BYTES : 0)
                   : "memory");
#endif
  }
  // Closes a group, which may be empty.
  __device__ void commit() {
#if defined(CK_HOST_CUDA)
    ++group_;
#else
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
  }
  // Returns when all but the N newest groups have arrived.
  template <int N>
  __device__ void wait() {
#if defined(CK_HOST_CUDA)
    int kept = 0;
    for (int i = 0; i < count_; ++i) {
      const Copy c = pending_[i];
      if (c.group >= group_ - N) {
        pending_[kept++] = c;
      } else {
        c.there ? std::memcpy(c.to, c.from, c.bytes) : std::memset(c.to, 0, c.bytes);
      }
    }
    count_ = kept;
#else
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
  }

#if defined(CK_HOST_CUDA)
 private:
  // Done as late as the hardware may do them: what reads without having waited finds poison.
  struct Copy {
    void* to;
    const void* from;
    int bytes;
    bool there;
    int group;
  };
  static constexpr int kPending = 128;
  Copy pending_[kPending];
  int count_ = 0, group_ = 0;
#endif
};

}  // namespace ck

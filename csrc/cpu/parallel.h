// Threads for the CPU kernels: the caller's pool, so that no second pool ever spins beside PyTorch's.
#pragma once
#include <cstdint>

namespace ck::cpu {

// run(begin, end, grain, body, context) splits [begin, end) into ranges of at least `grain` and calls
// body(b, e, context) for each, possibly at the same time on several threads.
struct Pool {
  using Body = void (*)(int64_t, int64_t, void*);
  void (*run)(int64_t begin, int64_t end, int64_t grain, Body body, void* context);
  int threads;
};

inline Pool serial_pool() {
  return {[](int64_t b, int64_t e, int64_t, Pool::Body body, void* c) {
            if (b < e) body(b, e, c);
          },
          1};
}

template <class F>
inline void parallel(const Pool& pool, int64_t n, int64_t grain, F&& f) {
  pool.run(0, n, grain, [](int64_t b, int64_t e, void* c) { (*static_cast<F*>(c))(b, e); }, &f);
}

}  // namespace ck::cpu

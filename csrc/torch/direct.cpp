#include "direct.h"

#include <cstdlib>
#include <memory>

namespace ck::direct {

Converters& converters() {
  static Converters c;
  return c;
}

std::vector<Definition>& definitions() {
  static std::vector<Definition> d;
  return d;
}

namespace {

constexpr int64_t kMostKept = 64 << 20;  // bytes of a map that a thread keeps; a larger one is worth its page faults

// A map and the one before it, which the step that makes it still reads.
struct Kept {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> memory;
  int64_t bytes = 0;
};
thread_local Kept kept[2];
thread_local int next = -1;  // which of them is to be had

struct Between {
  explicit Between(int which) { next = which; }
  ~Between() { next = -1; }
};

}  // namespace

void* memory_between_steps(int64_t bytes) {
  if (next < 0 || bytes > kMostKept) return nullptr;
  Kept& k = kept[next];
  next = -1;
  if (k.bytes < bytes) {
    k.memory.reset(), k.bytes = 0;
    k.memory.reset(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
    if (!k.memory) return nullptr;
    k.bytes = bytes;
  }
  return k.memory.get();
}

torch::stable::Tensor run(const torch::stable::Tensor& x, const std::vector<const Step*>& steps) {
  torch::stable::Tensor y = x;
  for (size_t i = 0; i < steps.size(); ++i) {
    const Between between(i + 1 < steps.size() ? static_cast<int>(i % 2) : -1);
    y = steps[i]->run(y);
  }
  return y;
}

}  // namespace ck::direct

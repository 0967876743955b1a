// What packed weights begin with: for which instruction set and sizes they were packed.
#pragma once
#include <algorithm>
#include <cstdint>

#include "isa.h"

namespace ck::cpu {

constexpr int64_t kPackedHeader = 16;  // elements: keeps what follows aligned to cache lines

template <class A>
inline void write_packed_header(A* to, Isa isa, int64_t size0, int64_t size1) {
  std::fill_n(to, kPackedHeader, A(0));
  to[0] = A(static_cast<int>(isa)), to[1] = A(size0), to[2] = A(size1);
}
inline bool is_packed_for(const float* header, Isa isa, int64_t size0, int64_t size1) {
  return header[0] == static_cast<float>(isa) && header[1] == static_cast<float>(size0) &&
         header[2] == static_cast<float>(size1);
}

}  // namespace ck::cpu

#include "focus.cuh"

#include "focus.h"

namespace ck::cuda {
namespace {

template <bool INVERSE>
cudaError_t focus(const FocusShape& s, const void* from, void* to, cudaStream_t stream) {
  if (s.channels_last) {
    const int64_t pixel = s.C * s.element_size;
    if (pixel % 16 == 0) return launch_focus_pixels<Vec<uint32_t, 4>, INVERSE>(s, from, to, stream);
    if (pixel % 4 == 0) return launch_focus_pixels<uint32_t, INVERSE>(s, from, to, stream);
    return launch_focus_pixels<uint16_t, INVERSE>(s, from, to, stream);
  }
  const bool whole = s.W * s.element_size % 16 == 0;
  if (s.element_size == 4)
    return whole ? launch_focus_planes<uint32_t, 4, INVERSE>(s, from, to, stream)
                 : launch_focus_planes<uint32_t, 1, INVERSE>(s, from, to, stream);
  return whole ? launch_focus_planes<uint16_t, 8, INVERSE>(s, from, to, stream)
               : launch_focus_planes<uint16_t, 1, INVERSE>(s, from, to, stream);
}

}  // namespace

cudaError_t focus(const FocusShape& s, const void* from, void* to, cudaStream_t stream) {
  if (s.element_size != 2 && s.element_size != 4) return cudaErrorInvalidValue;
  if (s.elements() == 0) return cudaSuccess;
  return s.inverse ? focus<true>(s, from, to, stream) : focus<false>(s, from, to, stream);
}

}  // namespace ck::cuda

#include "channel_shuffle.cuh"

#include "channel_shuffle.h"

namespace ck::cuda {

cudaError_t channel_shuffle(const ShuffleShape& s, const void* const in[2], void* const out[2], cudaStream_t stream) {
  if (s.N * s.channels() * s.HW == 0) return cudaSuccess;
  const ShuffleParams p{s, {in[0], in[1]}, {out[0], out[1]}};
  if (s.channels_last || s.HW == 1) {  // planes of one element are pixels, too
    if (s.element_size == 2) return launch_shuffle_pixels<uint16_t>(p, stream);
    return s.element_size == 4 ? launch_shuffle_pixels<uint32_t>(p, stream) : cudaErrorInvalidValue;
  }
  const int64_t plane = s.HW * s.element_size;
  if (plane % 16 == 0) return launch_shuffle_planes<Vec<uint32_t, 4>>(p, stream);
  if (plane % 8 == 0) return launch_shuffle_planes<uint64_t>(p, stream);
  if (plane % 4 == 0) return launch_shuffle_planes<uint32_t>(p, stream);
  return launch_shuffle_planes<uint16_t>(p, stream);
}

}  // namespace ck::cuda

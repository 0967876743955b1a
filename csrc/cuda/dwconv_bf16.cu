#include "dwconv.cuh"

namespace ck::cuda {
template cudaError_t launch_dwconv<__nv_bfloat16>(DwConvTask&, bool, cudaStream_t);
}  // namespace ck::cuda

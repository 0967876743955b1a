#include "dwconv.cuh"

namespace ck::cuda {
template cudaError_t launch_dwconv<float>(DwConvTask&, bool, cudaStream_t);
}  // namespace ck::cuda

#include "dwconv.cuh"

namespace ck::cuda {
template cudaError_t launch_dwconv<__half>(DwConvTask&, bool, cudaStream_t);
}  // namespace ck::cuda

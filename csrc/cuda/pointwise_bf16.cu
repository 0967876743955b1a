#include "pointwise.cuh"

namespace ck::cuda {
template cudaError_t launch_pointwise<__nv_bfloat16>(PointwiseTask&, PointwiseTile, bool, cudaStream_t);
}  // namespace ck::cuda

#include "pointwise.cuh"

namespace ck::cuda {
template cudaError_t launch_pointwise<float>(PointwiseTask&, PointwiseTile, bool, cudaStream_t);
}  // namespace ck::cuda

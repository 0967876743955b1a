#include "../cpu/fma_peak.h"

#include "glue.h"

namespace ck::glue {
namespace {

// [2, threads] in double: the FLOPs that each thread did, and the sums of its lanes.  `device` only says where.
[[maybe_unused]] Tensor fma_peak_cpu(const Tensor& device, int64_t turns) {
  STD_TORCH_CHECK(turns >= 0, "fma_peak: turns must be 0 or more");
  const cpu::Pool pool = torch_pool();
  Tensor y = empty(device, {2, pool.threads}, ScalarType::Double);
  double* const rows = mut<double>(y);
  cpu::fma_peak({turns, pool.threads, rows, rows + pool.threads, pool});
  return y;
}

}  // namespace

CK_NATIVE_OPS(m) { m.def("fma_peak(Tensor device, int turns) -> Tensor"); }
CK_CPU_IMPL(m) { cpu_kernel<&fma_peak_cpu>(m, "fma_peak"); }

}  // namespace ck::glue

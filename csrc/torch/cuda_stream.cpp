#include <dlfcn.h>

#include "glue.h"

namespace ck::glue {

// libtorch_cuda is not linked, so that one extension loads beside a CPU-only and a CUDA PyTorch.  PyTorch loads that
// library with local scope, where neither a weak symbol nor dlsym(RTLD_DEFAULT) finds it; its handle does.
cudaStream_t current_stream(int32_t device) {
  using Fn = int32_t (*)(int32_t, void**);
  static const Fn fn = [] {
    void* h = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    return h ? reinterpret_cast<Fn>(dlsym(h, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  void* stream = nullptr;
  STD_TORCH_CHECK(fn && fn(device, &stream) == 0, "cnnkernels: this PyTorch gives no current CUDA stream");
  return static_cast<cudaStream_t>(stream);
}

}  // namespace ck::glue

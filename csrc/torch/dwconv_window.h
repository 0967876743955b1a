// The geometry of a depthwise convolution from what Python hands over.
#pragma once
#include <vector>

#include "../math/dwconv_shape.h"
#include "glue.h"

namespace ck::glue {

// x [N, any, H, W], weight [C, 1, kh, kw]; window: stride (2), padding (left, right, top, bottom), dilation (2); pairs are
// (vertical, horizontal).
inline DwConvShape dwconv_shape(int64_t N, int64_t H, int64_t W, const Tensor& weight,
                                const std::vector<int64_t>& window, bool channels_last) {
  STD_TORCH_CHECK(weight.dim() == 4 && weight.size(1) == 1 && weight.is_contiguous() && window.size() == 8,
                  "dwconv: bad arguments");
  const int64_t kh = weight.size(2), kw = weight.size(3);
  const int64_t *stride = window.data(), *padding = stride + 2, *dilation = padding + 4;
  STD_TORCH_CHECK(H > 0 && W > 0 && kh > 0 && kw > 0 && stride[0] > 0 && stride[1] > 0 && dilation[0] > 0 &&
                      dilation[1] > 0 && padding[0] >= 0 && padding[1] >= 0 && padding[2] >= 0 && padding[3] >= 0,
                  "dwconv: bad arguments");
  const int64_t rows = H + padding[2] + padding[3] - dilation[0] * (kh - 1);
  const int64_t columns = W + padding[0] + padding[1] - dilation[1] * (kw - 1);
  STD_TORCH_CHECK(rows > 0 && columns > 0, "dwconv: the kernel does not fit into x");
  return {N,
          weight.size(0),
          H,
          W,
          (rows - 1) / stride[0] + 1,
          (columns - 1) / stride[1] + 1,
          static_cast<int>(kh),
          static_cast<int>(kw),
          static_cast<int>(stride[0]),
          static_cast<int>(stride[1]),
          static_cast<int>(dilation[0]),
          static_cast<int>(dilation[1]),
          static_cast<int>(padding[2]),
          static_cast<int>(padding[0]),
          channels_last};
}
inline DwConvShape dwconv_shape(const Tensor& x, const Tensor& weight, const std::vector<int64_t>& window,
                                bool channels_last) {
  return dwconv_shape(x.size(0), x.size(2), x.size(3), weight, window, channels_last);
}

}  // namespace ck::glue

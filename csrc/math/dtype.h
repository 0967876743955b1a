// Element types as the C++ layers name them.  The torch glue is the only place that knows torch's own enumeration.
#pragma once
namespace ck {
enum class Dtype : int { f32, f64, f16, bf16 };
}  // namespace ck

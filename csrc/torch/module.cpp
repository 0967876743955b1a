// The pybind11 module cnnkernels._C.  Importing it registers the native ops (static initialisers of the other files in
// this folder); what it holds itself is what a person may ask about the build and the CPU.
#include <string>
#include <vector>

#include "../cpu/isa.h"
#include "direct.h"
#include "snapshot.h"

namespace py = pybind11;

// The submodule `direct`, or None if this PyTorch cannot hand over tensors that way.
static py::object direct_functions(py::module_& m) {
  auto& c = ck::direct::converters();
  try {
    const py::module_ aoti = py::module_::import("torch._C._aoti");
    c.to_handle = py::object(aoti.attr("unsafe_alloc_void_ptr_from_tensor")).release().ptr();
    c.from_handles = py::object(aoti.attr("alloc_tensors_by_stealing_from_void_ptrs")).release().ptr();
    c.is_neg = PyUnicode_InternFromString("is_neg");
  } catch (py::error_already_set&) {
    return py::none();
  }
  py::module_ direct =
      m.def_submodule("direct", "Kernels on CPU tensors, past PyTorch's dispatcher (csrc/torch/direct.h).");
  // Before what makes and takes them.
  py::class_<ck::direct::Step>(direct, "Step", "A call on an image that is still to come.");
  direct.def_submodule("bound", "Steps: direct functions with all arguments but the image.");
  direct.def_submodule("cuda", "The same of the kernels on CUDA tensors.");
  for (const auto& define : ck::direct::definitions()) define(direct);
  direct.def("run", &ck::direct::run, py::call_guard<py::gil_scoped_release>(),
             "Steps one after the other, each on the image that the one before made.");
  return direct;
}

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "Native kernels of cnnkernels; see cnnkernels.explain().";
  m.attr("direct") = direct_functions(m);
  ck::define_snapshot(m);
  m.def("build_info", [] {
    py::dict d;
    d["torch"] = CK_BUILD_TORCH;
    d["compiler"] = __VERSION__;
    d["cuda"] = std::string(CK_BUILD_CUDA);
    d["cuda_architectures"] = std::string(CK_BUILD_CUDA_ARCHS);
    return d;
  });
  m.def("cpu_isa", [] { return ck::cpu::isa_name(ck::cpu::isa()); });
  m.def(
      "set_cpu_isa",
      [](const std::string& name) {
        using ck::cpu::Isa;
        if (name != "generic" && name != "avx2" && name != "avx512")
          throw py::value_error("set_cpu_isa: expected 'generic', 'avx2' or 'avx512', got '" + name + "'");
        return ck::cpu::isa_name(ck::cpu::set_isa(name == "avx512" ? Isa::avx512
                                                  : name == "avx2" ? Isa::avx2
                                                                   : Isa::generic));
      },
      py::arg("name"), "Use this instruction set, or the best one below it that the CPU has; returns the one in use.");
}

// The pybind11 module cnnkernels._C.  Importing it registers the native ops (static initialisers of the other files in
// this folder); what it holds itself is what a person may ask about the build and the CPU.
#include <pybind11/pybind11.h>

#include <string>

#include "../cpu/isa.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "Native kernels of cnnkernels; see cnnkernels.explain().";
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

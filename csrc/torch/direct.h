// Kernels called straight from Python, past PyTorch's dispatcher: cnnkernels._C.direct.<native op>(...) on CPU tensors,
// cnnkernels._C.direct.cuda.<native op>(...) on those of one GPU.
//
// A call through torch.ops costs about 4 us, which is as long as many of the kernels take; this way it is 1 us with one
// tensor and 2.5 us with four.  The functions are the ones that torch.ops.cnnkernels_native runs, with the same arguments.  Whoever
// calls them (cnnkernels/_op.py) knows that nothing wants to see the call: no autograd, mode, transform or tracer.
//
// Tensors cross over as the handles of the stable ABI, by the two functions of torch._C._aoti that PyTorch's own generated
// wrappers use.
#pragma once
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <functional>
#include <optional>
#include <vector>

namespace ck::direct {

namespace py = pybind11;

// torch._C._aoti's converters; where this PyTorch has none, `direct` is None (module.cpp).
struct Converters {
  PyObject* to_handle = nullptr;
  PyObject* from_handles = nullptr;  // of a list: the function for a single one does not free its handle (torch 2.13)
  PyObject* is_neg = nullptr;        // the method's name
};
Converters& converters();

// What the op files add to the module, before it is made.
using Definition = std::function<void(py::module_&)>;
std::vector<Definition>& definitions();

template <auto Kernel>
void define(const char* name) {
  definitions().push_back([name](py::module_& m) { m.def(name, Kernel, py::call_guard<py::gil_scoped_release>()); });
}

template <auto Kernel>
void define_cuda(const char* name) {
  definitions().push_back([name](py::module_& m) {
    py::module_(m.attr("cuda")).def(name, Kernel, py::call_guard<py::gil_scoped_release>());
  });
}

// A call on an image that is still to come: everything else it takes is bound, tensors with what they hold by then.
struct Step {
  std::function<torch::stable::Tensor(const torch::stable::Tensor&)> run;
};

// Steps one after the other, each on the image that the one before made.
torch::stable::Tensor run(const torch::stable::Tensor& x, const std::vector<const Step*>& steps);

// Memory for `bytes` of a map that only the next step reads, or null where the caller takes memory of its own.  A step asks
// once, for its result.  Fresh pages for every map took MobileNetV3 a tenth of its time at batch 8.
void* memory_between_steps(int64_t bytes);

// cnnkernels._C.direct.bound.<name>(all arguments but x) -> Step.
template <class... A>
void define_bound(const char* name, torch::stable::Tensor (*kernel)(const torch::stable::Tensor&, A...)) {
  definitions().push_back([=](py::module_& m) {
    py::module_(m.attr("bound")).def(name, [kernel](std::decay_t<A>... arguments) {
      return Step{[kernel, arguments...](const torch::stable::Tensor& x) { return kernel(x, arguments...); }};
    });
  });
}

}  // namespace ck::direct

namespace pybind11::detail {

template <>
struct type_caster<torch::stable::Tensor> {
  using Tensor = torch::stable::Tensor;
  static constexpr auto name = const_name("torch.Tensor");
  template <class T>
  using cast_op_type = Tensor&;
  operator Tensor&() { return *value_; }

  // False (pybind11 then raises a TypeError that names all arguments) for anything but a tensor whose memory holds its
  // values: the dispatcher would have resolved a pending negation, or zeros that were never stored.
  bool load(handle source, bool) {
    const auto& c = ck::direct::converters();
    const auto capsule = reinterpret_steal<object>(PyObject_CallOneArg(c.to_handle, source.ptr()));
    void* h = capsule ? PyCapsule_GetPointer(capsule.ptr(), nullptr) : nullptr;
    if (h) value_.emplace(static_cast<AtenTensorHandle>(h));
    const auto negated = h ? reinterpret_steal<object>(PyObject_CallMethodNoArgs(source.ptr(), c.is_neg)) : object();
    if (!negated) PyErr_Clear();
    return negated.ptr() == Py_False && (value_->const_data_ptr() || value_->numel() == 0);
  }

  static handle cast(const Tensor& t, return_value_policy, handle) {
    AtenTensorHandle owned = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(t.get(), &owned));
    list handles(1);
    handles[0] = capsule(owned);
    const auto made =
        reinterpret_steal<list>(PyObject_CallOneArg(ck::direct::converters().from_handles, handles.ptr()));
    if (!made) throw error_already_set();
    return object(made[0]).release();
  }

 private:
  std::optional<Tensor> value_;
};

}  // namespace pybind11::detail

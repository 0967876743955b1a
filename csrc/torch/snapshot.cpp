#include "snapshot.h"

namespace py = pybind11;

namespace ck {
namespace {

// The number that an attribute holds, or that the method of that name returns.
long long number(PyObject* value) {
  const auto held = py::reinterpret_steal<py::object>(value);
  const long long n = held ? PyLong_AsLongLong(held.ptr()) : -1;
  if (n == -1 && PyErr_Occurred()) throw py::error_already_set();
  return n;
}
long long version_of(const py::object& tensor) {
  static PyObject* const name = PyUnicode_InternFromString("_version");
  return number(PyObject_GetAttr(tensor.ptr(), name));
}
long long address_of(const py::object& tensor) {
  static PyObject* const name = PyUnicode_InternFromString("data_ptr");
  return number(PyObject_CallMethodNoArgs(tensor.ptr(), name));
}

PyObject* find(const py::dict& dict, const py::object& key) {
  PyObject* const value = PyDict_GetItemWithError(dict.ptr(), key.ptr());
  if (!value && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

}  // namespace

void Snapshot::type(py::object object) {
  py::object of = py::type::of(object);
  types_.push_back({std::move(object), std::move(of)});
}

void Snapshot::item(py::dict dict, py::object key) {
  auto value = py::reinterpret_borrow<py::object>(find(dict, key));
  items_.push_back({std::move(dict), std::move(key), std::move(value)});
}

void Snapshot::items(py::dict dict) {
  std::vector<py::object> values;
  for (const auto& [key, value] : dict) values.push_back(py::reinterpret_borrow<py::object>(value));
  all_items_.push_back({std::move(dict), std::move(values)});
}

void Snapshot::tensor(py::object tensor) {
  const long long version = version_of(tensor), address = address_of(tensor);
  tensors_.push_back({std::move(tensor), version, address});
}

bool Snapshot::holds() const {
  for (const auto& t : types_)
    if (reinterpret_cast<PyObject*>(Py_TYPE(t.object.ptr())) != t.type.ptr()) return false;
  for (const auto& i : items_)
    if (find(i.dict, i.key) != i.value.ptr()) return false;
  for (const auto& all : all_items_) {
    if (static_cast<size_t>(PyDict_Size(all.dict.ptr())) != all.values.size()) return false;
    PyObject *key = nullptr, *value = nullptr;
    Py_ssize_t at = 0;
    for (size_t i = 0; i < all.values.size(); ++i)
      if (!PyDict_Next(all.dict.ptr(), &at, &key, &value) || value != all.values[i].ptr()) return false;
  }
  for (const auto& t : tensors_)
    if (version_of(t.tensor) != t.version || address_of(t.tensor) != t.address) return false;
  return true;
}

void Snapshot::add(const Snapshot& other) {
  const auto append = [](auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); };
  append(types_, other.types_), append(items_, other.items_), append(all_items_, other.all_items_);
  append(tensors_, other.tensors_);
}

int Snapshot::traverse(visitproc visit, void* arg) const {
  for (const auto& t : types_) {
    Py_VISIT(t.object.ptr());
    Py_VISIT(t.type.ptr());
  }
  for (const auto& i : items_) {
    Py_VISIT(i.dict.ptr());
    Py_VISIT(i.key.ptr());
    Py_VISIT(i.value.ptr());
  }
  for (const auto& all : all_items_) {
    Py_VISIT(all.dict.ptr());
    for (const auto& value : all.values) Py_VISIT(value.ptr());
  }
  for (const auto& t : tensors_) Py_VISIT(t.tensor.ptr());
  return 0;
}

void Snapshot::clear() {
  // Taken out first: what goes with the last reference may come back here.
  const Snapshot gone = std::move(*this);
  types_.clear(), items_.clear(), all_items_.clear(), tensors_.clear();
}

namespace {

// The snapshot in a Python object; null while that is being made.
Snapshot* snapshot_in(PyObject* self) {
  const bool made = reinterpret_cast<py::detail::instance*>(self)->get_value_and_holder().holder_constructed();
  return made ? &py::cast<Snapshot&>(py::handle(self)) : nullptr;
}

void collect_garbage(PyHeapTypeObject* heap_type) {
  PyTypeObject& type = heap_type->ht_type;
  type.tp_flags |= Py_TPFLAGS_HAVE_GC;
  type.tp_traverse = [](PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    const Snapshot* const s = snapshot_in(self);
    return s ? s->traverse(visit, arg) : 0;
  };
  type.tp_clear = [](PyObject* self) {
    if (Snapshot* const s = snapshot_in(self)) s->clear();
    return 0;
  };
}

}  // namespace

void define_snapshot(py::module_& m) {
  py::class_<Snapshot>(m, "Snapshot", "What some Python objects were like (csrc/torch/snapshot.h).",
                       py::custom_type_setup(collect_garbage))
      .def(py::init<>())
      .def("add", &Snapshot::add, "All that another one saw.")
      .def("type", &Snapshot::type, "The object's class.")
      .def("item", &Snapshot::item, "The object under a key, or that there is none.")
      .def("items", &Snapshot::items, "All values of a dict, in order.")
      .def("tensor", &Snapshot::tensor, "A tensor's version counter and address.")
      .def("holds", &Snapshot::holds, "Whether all of it is still so.");
}

}  // namespace ck

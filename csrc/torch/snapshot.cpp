#include "snapshot.h"

#include <atomic>

#include "direct.h"

namespace py = pybind11;

namespace ck {
namespace {

// Tells whether a dict may have changed: as long as it returns the same number, it has not.
#if PY_VERSION_HEX < 0x030C0000
void watch(const py::dict&) {}
uint64_t age(const py::dict& dict) { return reinterpret_cast<PyDictObject*>(dict.ptr())->ma_version_tag; }
#else  // of all watched dicts together
std::atomic<uint64_t> changes{0};
int watcher() {
  static const int id = [] {
    const int made = PyDict_AddWatcher([](PyDict_WatchEvent, PyObject*, PyObject*, PyObject*) {
      ++changes;
      return 0;
    });
    if (made < 0) PyErr_Clear();  // none left: then nobody tells
    return made;
  }();
  return id;
}
void watch(const py::dict& dict) {
  if (watcher() >= 0 && PyDict_Watch(watcher(), dict.ptr()) < 0) throw py::error_already_set();
}
uint64_t age(const py::dict&) { return watcher() < 0 ? ++changes : changes.load(); }
#endif

// tensor._version, without looking up the name.
long long version_of(const py::object& tensor) {
  static PyObject* const descriptor = [] {
    const py::object base = py::module_::import("torch._C").attr("TensorBase");
    return py::object(base.attr("__dict__")["_version"]).release().ptr();
  }();
  const auto held = py::reinterpret_steal<py::object>(
      Py_TYPE(descriptor)->tp_descr_get(descriptor, tensor.ptr(), reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr()))));
  const long long n = held ? PyLong_AsLongLong(held.ptr()) : -1;
  if (n == -1 && PyErr_Occurred()) throw py::error_already_set();
  return n;
}

torch::stable::Tensor handle_of(const py::object& tensor) {
  py::detail::make_caster<torch::stable::Tensor> caster;
  if (!caster.load(tensor, false)) throw py::type_error("Snapshot.tensor: a tensor with memory of its own expected");
  return py::detail::cast_op<torch::stable::Tensor&>(caster);
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
  watch(dict);
  const uint64_t now = age(dict);
  auto value = py::reinterpret_borrow<py::object>(find(dict, key));
  if (items_.empty() || items_.back().dict.ptr() != dict.ptr() || items_.back().age != now)
    items_.push_back({std::move(dict), {}, now});
  items_.back().values.emplace_back(std::move(key), std::move(value));
}

void Snapshot::items(py::dict dict) {
  watch(dict);
  const uint64_t now = age(dict);
  std::vector<py::object> values;
  for (const auto& [key, value] : dict) values.push_back(py::reinterpret_borrow<py::object>(value));
  all_items_.push_back({std::move(dict), std::move(values), now});
}

void Snapshot::tensor(py::object tensor) {
  const long long version = version_of(tensor);
  torch::stable::Tensor handle = handle_of(tensor);
  const void* const address = handle.const_data_ptr();
  tensors_.push_back({std::move(tensor), std::move(handle), version, address});
}

bool Snapshot::hold(const Items& some) {
  for (const auto& [key, value] : some.values)
    if (find(some.dict, key) != value.ptr()) return false;
  return true;
}

bool Snapshot::hold(const AllItems& all) {
  if (static_cast<size_t>(PyDict_Size(all.dict.ptr())) != all.values.size()) return false;
  PyObject *key = nullptr, *value = nullptr;
  Py_ssize_t at = 0;
  for (const auto& expected : all.values)
    if (!PyDict_Next(all.dict.ptr(), &at, &key, &value) || value != expected.ptr()) return false;
  return true;
}

bool Snapshot::holds() const {
  for (const auto& t : types_)
    if (reinterpret_cast<PyObject*>(Py_TYPE(t.object.ptr())) != t.type.ptr()) return false;
  const auto unchanged = [](const auto& facts) {
    for (const auto& f : facts) {
      const uint64_t now = age(f.dict);
      if (now == f.age) continue;
      if (!hold(f)) return false;
      f.age = now;
    }
    return true;
  };
  if (!unchanged(items_) || !unchanged(all_items_)) return false;
  for (const auto& t : tensors_)
    if (version_of(t.tensor) != t.version || t.handle.const_data_ptr() != t.address) return false;
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
  for (const auto& some : items_) {
    Py_VISIT(some.dict.ptr());
    for (const auto& [key, value] : some.values) {
      Py_VISIT(key.ptr());
      Py_VISIT(value.ptr());
    }
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

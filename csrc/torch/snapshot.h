// How Python objects were when something was derived from them, and whether they still are: for cnnkernels/nn/_plan.py.
//
// A block of nine modules depends on a hundred facts, a network on some thousands, most of them entries of dicts that nobody
// changes: Python tells whether one was (up to 3.11 by its version tag, then by a watcher), and only then they are looked at.
#pragma once
#include <pybind11/pybind11.h>

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace ck {

class Snapshot {
 public:
  void type(pybind11::object object);                    // its class stays what it is
  void item(pybind11::dict dict, pybind11::object key);  // dict[key] stays the very object it is, or away
  void items(pybind11::dict dict);                       // so do all values, and no other comes
  void tensor(pybind11::object tensor);                  // its version counter and address stay
  void add(const Snapshot& other);                       // all that the other saw
  bool holds() const;

  // For Python's garbage collector: modules own the plans that own their snapshots.
  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  struct Typed {
    pybind11::object object, type;
  };
  // Facts about a dict, and how old it was when they were last known to be true.
  struct Items {
    pybind11::dict dict;
    std::vector<std::pair<pybind11::object, pybind11::object>> values;  // by key; null if there is none
    mutable uint64_t age;
  };
  struct AllItems {
    pybind11::dict dict;
    std::vector<pybind11::object> values;
    mutable uint64_t age;
  };
  struct Tensor {
    pybind11::object tensor;
    torch::stable::Tensor handle;  // the same
    long long version;
    const void* address;
  };
  static bool hold(const Items& some);
  static bool hold(const AllItems& all);

  std::vector<Typed> types_;
  std::vector<Items> items_;
  std::vector<AllItems> all_items_;
  std::vector<Tensor> tensors_;
};

void define_snapshot(pybind11::module_& m);

}  // namespace ck

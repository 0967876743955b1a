// How Python objects were when something was derived from them, and whether they still are: for cnnkernels/nn/_block_plan.py.
//
// A block of nine modules depends on a hundred facts.  Asked from Python they take 7 us, as long as a small convolution; asked
// from here 1.5 us.
#pragma once
#include <pybind11/pybind11.h>

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
  struct Item {
    pybind11::dict dict;
    pybind11::object key, value;  // value: null if there is none
  };
  struct Items {
    pybind11::dict dict;
    std::vector<pybind11::object> values;
  };
  struct Tensor {
    pybind11::object tensor;
    long long version, address;
  };
  std::vector<Typed> types_;
  std::vector<Item> items_;
  std::vector<Items> all_items_;
  std::vector<Tensor> tensors_;
};

void define_snapshot(pybind11::module_& m);

}  // namespace ck

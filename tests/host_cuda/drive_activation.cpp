#include "../../csrc/cpu/activation.h"
#include "../../csrc/cuda/activation.h"
#include "drive.h"

using namespace drive;

DRIVE(activation) {
  for_each_type([](auto t) {
    using T = decltype(t);
    for (int64_t n : {0, 1, 7, 33, 1000, 4500}) {
      Buffer<T> x(n), dy(n);
      x.random(1, -8.f, 8.f), dy.random(2);
      for (int act = 0; act <= 8; ++act) {
        const auto a = static_cast<ck::Act>(act);
        Buffer<T> y(n), dx(n);
        expect("launch",
               ck::cuda::activation_forward(DtypeOf<T>::value, x.data(), y.data(), n, a, 0.1, nullptr) == cudaSuccess);
        expect("launch", ck::cuda::activation_backward(DtypeOf<T>::value, dy.data(), x.data(), dx.data(), n, a, 0.1,
                                                       nullptr) == cudaSuccess);
        for_each_isa([&] {
          Buffer<T> cy(n), cdx(n);
          ck::cpu::activation_forward(
              {DtypeOf<T>::value, x.data(), nullptr, cy.data(), n, a, 0.1, ck::cpu::serial_pool()});
          ck::cpu::activation_backward(
              {DtypeOf<T>::value, x.data(), dy.data(), cdx.data(), n, a, 0.1, ck::cpu::serial_pool()});
          expect_close("forward", cy, y, eps<T>());
          expect_close("backward", cdx, dx, eps<T>());
        });
      }
    }
  });
}

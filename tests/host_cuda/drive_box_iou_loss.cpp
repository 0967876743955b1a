#include "../../csrc/cpu/box_iou_loss.h"

#include <cmath>

#include "../../csrc/cuda/box_iou_loss.h"
#include "drive.h"

using namespace drive;

namespace {

// Boxes of every size, some equal, some without area, some inside out; half of the corners lie on a grid, so that they tie.
template <class T>
void fill(Buffer<T>& boxes, unsigned seed) {
  std::mt19937 g(seed);
  std::uniform_real_distribution<float> place(0.f, 12.f), size(-1.f, 8.f);
  for (int64_t i = 0; i < boxes.n / 4; ++i) {
    float corners[4] = {place(g), place(g), 0.f, 0.f};
    corners[2] = corners[0] + size(g), corners[3] = corners[1] + size(g);
    for (int k = 0; k < 4; ++k) boxes[4 * i + k] = T(i % 2 ? corners[k] : std::round(corners[k]));
  }
}

template <class T>
void run(int64_t n, ck::Overlap kind, ck::Reduction reduction, bool both, const ck::cpu::Pool& pool) {
  const bool each = reduction == ck::Reduction::none;
  Buffer<T> pred(4 * n), target(4 * n), dpred(4 * n), dtarget(both ? 4 * n : 0);
  fill(pred, 1), fill(target, 2);
  Buffer<float> loss(each ? n : 1), grad(each ? n : 1);
  Buffer<float> sums(ck::cuda::box_iou_loss_workspace(n, reduction));
  grad.random(3);
  const ck::cuda::BoxPairs pairs{DtypeOf<T>::value, pred.data(), target.data(), n, kind, reduction};
  expect("launch", ck::cuda::box_iou_loss_forward(pairs, loss.data(), sums.data(), nullptr) == cudaSuccess);
  expect("launch", ck::cuda::box_iou_loss_backward(pairs, grad.data(), each, dpred.data(),
                                                   both ? dtarget.data() : nullptr, nullptr) == cudaSuccess);
  for_each_isa([&] {
    Buffer<float> cpu_loss(loss.n);
    Buffer<T> cpu_dpred(dpred.n), cpu_dtarget(dtarget.n);
    const ck::cpu::BoxIouLossArgs args{DtypeOf<T>::value,
                                       pred.data(),
                                       target.data(),
                                       n,
                                       kind,
                                       reduction,
                                       cpu_loss.data(),
                                       grad.data(),
                                       each,
                                       cpu_dpred.data(),
                                       both ? cpu_dtarget.data() : nullptr,
                                       pool};
    ck::cpu::box_iou_loss_forward(args);
    ck::cpu::box_iou_loss_backward(args);
    expect_close("loss", cpu_loss, loss, 2e-6);
    expect_close("gradient towards pred", cpu_dpred, dpred, eps<T>());
    expect_close("gradient towards target", cpu_dtarget, dtarget, eps<T>());
  });
}

const ck::Overlap kKinds[] = {ck::Overlap::iou, ck::Overlap::giou, ck::Overlap::diou, ck::Overlap::ciou};
const ck::Reduction kReductions[] = {ck::Reduction::none, ck::Reduction::mean, ck::Reduction::sum};

}  // namespace

DRIVE(box_iou_loss) {
  for_each_type([](auto t) {
    using T = decltype(t);
    for (int64_t n : {0, 1, 5, 16, 33, 300})
      for (ck::Overlap kind : kKinds)
        for (ck::Reduction reduction : kReductions) run<T>(n, kind, reduction, n % 2, ck::cpu::serial_pool());
  });
}

// More than one part of a sum: on the CPU, and of a GPU's blocks.
DRIVE(box_iou_loss_parts) {
  for (int64_t n : {2049, 5000}) run<float>(n, ck::Overlap::ciou, ck::Reduction::mean, true, pool_of<3>());
}

// The polynomial against the library's function in double, in units of the last place.
DRIVE(box_iou_loss_angle) {
  double worst = 0;
  const auto look = [&](float w, float h) {
    const double want = std::atan2(double(w), double(h)), got = ck::m_angle(w, h);
    const float nearest = float(want);
    const double ulp = double(std::nextafterf(nearest, INFINITY)) - nearest;
    worst = std::max(worst, std::fabs(got - want) / ulp);
  };
  for (int i = 0; i <= 200000; ++i) look(float(i) * 1e-5f, 1.f), look(1.f, float(i) * 1e-5f);
  for (float w = 1e-6f; w < 1e7f; w *= 1.37f)
    for (float h = 1e-6f; h < 1e7f; h *= 1.21f) look(w, h);
  expect("angle within 2 ulp", worst <= 2.0);
  expect("angle of nothing", ck::m_angle(0.f, 0.f) == 0.f && ck::m_angle(0.f, 3.f) == 0.f);
}

#include "../../csrc/cpu/fma_peak.h"
#include "drive.h"

using namespace drive;

DRIVE(fma_peak) {
  for (const auto& pool : {ck::cpu::serial_pool(), pool_of<2>()})
    for_each_isa([&] {
      const int64_t tasks = 3, turns = 64;  // after which 2 - 2^-63 is 2
      Buffer<double> flops(tasks), sums(tasks), want(tasks);
      ck::cpu::fma_peak({turns, tasks, flops.data(), sums.data(), pool});
      for (int64_t i = 0; i < tasks; ++i) want[i] = flops[i] / static_cast<double>(turns);  // two a lane and turn
      expect_close("fma_peak", sums, want, 0.0);
    });
}

// What a roofline's flat part is measured with: multiply-adds on registers alone, as many as the instruction set gives.
#pragma once
#include <cstdint>

#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct FmaPeakArgs {
  int64_t turns;
  int64_t tasks;  // one a thread
  double* flops;  // [tasks]: done by each, a multiply-add being two
  double* sums;   // [tasks]: of all lanes, each of which tends to 2; written so that the loop has to run
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(fma_peak, ck::cpu::FmaPeakArgs)

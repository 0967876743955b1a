// Channel shuffle of one or two tensors into one or two (math/channel_shuffle_shape.h).
#pragma once
#include "../math/channel_shuffle_shape.h"
#include "isa.h"
#include "parallel.h"

namespace ck::cpu {
struct ChannelShuffleArgs {
  ShuffleShape shape;
  const void* in[2];
  void* out[2];
  Pool pool;
};
}  // namespace ck::cpu
CK_CPU_KERNEL(channel_shuffle, ck::cpu::ChannelShuffleArgs)

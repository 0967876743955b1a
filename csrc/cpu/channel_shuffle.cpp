// Channel shuffle: 2e bytes per element, no arithmetic.
//
// NCHW copies planes to their new places.  NHWC permutes the channels of each pixel.  A shuffle is the transposition of a
// [groups, C / groups] matrix, so with S the smaller of the two sizes a pixel is S contiguous streams of channels on one
// side and their interleaving on the other: S in {2, 3, 4, 6, 8} runs in vector registers, others element by element.
#include "channel_shuffle.h"

#include <algorithm>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "streams.h"

namespace ck::cpu::CK_ISA {
namespace {

// ---- planes ------------------------------------------------------------------------------------------------------------

void shuffle_planes(const ChannelShuffleArgs& a) {
  const ShuffleShape& s = a.shape;
  const int64_t C = s.channels(), m = C / s.groups, plane = s.HW * s.element_size;
  const char* in[2] = {static_cast<const char*>(a.in[0]), static_cast<const char*>(a.in[1])};
  char* out[2] = {static_cast<char*>(a.out[0]), static_cast<char*>(a.out[1])};
  parallel(a.pool, s.N * C, move_grain(2 * plane), [&](int64_t begin, int64_t end) {
    int64_t n = begin / C, o = begin % C, i = o / s.groups, j = o % s.groups;
    for (int64_t t = begin; t < end; ++t) {
      const int64_t c = j * m + i;
      const bool second_in = c >= s.in_channels[0], second_out = o >= s.out_channels[0];
      const int64_t from = n * s.in_channels[second_in] + c - second_in * s.in_channels[0];
      const int64_t to = n * s.out_channels[second_out] + o - second_out * s.out_channels[0];
      copy_run(out[second_out] + to * plane, in[second_in] + from * plane, plane);
      if (++j == s.groups) j = 0, ++i;
      if (++o == C) o = i = j = 0, ++n;
    }
  });
}

// ---- one pixel -----------------------------------------------------------------------------------------------------------

// Channel `c` of the one or two tensors on one side: which tensor, and which channel there.
struct Place {
  int tensor;
  int64_t channel;
};

// A run of channels within which no stream and no packed range crosses from one tensor to the other.
struct Piece {
  int64_t n;                   // channels per stream
  Place packed;                // n * S contiguous channels
  std::vector<Place> streams;  // S starts of n contiguous channels
};

// What to do for each pixel: pieces, and single channels where a tuple of S straddles the split of the packed side.
struct Plan {
  std::vector<Piece> pieces;
  std::vector<std::pair<Place, Place>> singles;  // (stream side, packed side)
};

// S streams of `length` channels each; each side is split at the given channel.
Plan make_plan(int64_t S, int64_t length, int64_t stream_split, int64_t packed_split) {
  const auto place = [](int64_t c, int64_t split) { return c < split ? Place{0, c} : Place{1, c - split}; };
  std::vector<int64_t> cuts = {0, length};
  cuts.push_back(stream_split % length);               // inside one stream, or at a boundary
  cuts.push_back(std::min(packed_split / S, length));  // the tuple that contains the split begins here ...
  const bool straddles = packed_split % S != 0;
  if (straddles) cuts.push_back(packed_split / S + 1);  // ... and ends here
  std::sort(cuts.begin(), cuts.end());
  Plan plan;
  for (size_t k = 0; k + 1 < cuts.size(); ++k) {
    const int64_t b = cuts[k], n = cuts[k + 1] - b;
    if (n == 0) continue;
    if (straddles && b == packed_split / S) {
      for (int64_t s = 0; s < S; ++s)
        plan.singles.emplace_back(place(s * length + b, stream_split), place(b * S + s, packed_split));
      continue;
    }
    Piece p{n, place(b * S, packed_split), {}};
    for (int64_t s = 0; s < S; ++s) p.streams.push_back(place(s * length + b, stream_split));
    plan.pieces.push_back(std::move(p));
  }
  return plan;
}

// PACK: streams are read and the interleaved side is written; otherwise the other way round.  S = 0: any number of streams.
template <bool PACK, int S, class U>
void shuffle_pixels(const ChannelShuffleArgs& a, int64_t streams, int64_t length) {
  const ShuffleShape& s = a.shape;
  const int64_t in_split = s.in_channels[0], out_split = s.out_channels[0];
  const Plan plan = make_plan(streams, length, PACK ? in_split : out_split, PACK ? out_split : in_split);
  parallel(a.pool, s.N * s.HW, move_grain(2 * s.channels() * s.element_size), [&](int64_t begin, int64_t end) {
    const U *in[2], *from[S ? S : 1];
    U *out[2], *to[S ? S : 1];
    for (int64_t p = begin; p < end; ++p) {
      for (int k = 0; k < 2; ++k) {
        in[k] = static_cast<const U*>(a.in[k]) + p * s.in_channels[k];
        out[k] = static_cast<U*>(a.out[k]) + p * s.out_channels[k];
      }
      for (const Piece& piece : plan.pieces) {
        const Place q = piece.packed;
        if constexpr (S > 0) {
          for (int k = 0; k < S; ++k) {
            const Place t = piece.streams[k];
            if constexpr (PACK) from[k] = in[t.tensor] + t.channel;
            else to[k] = out[t.tensor] + t.channel;
          }
          move_streams<PACK, S, U, kVectorBytes>(from, to, PACK ? nullptr : in[q.tensor] + q.channel,
                                                 PACK ? out[q.tensor] + q.channel : nullptr, piece.n);
        } else {
          for (int64_t k = 0; k < streams; ++k) {
            const Place t = piece.streams[k];
            for (int64_t i = 0; i < piece.n; ++i) {
              if constexpr (PACK) out[q.tensor][q.channel + i * streams + k] = in[t.tensor][t.channel + i];
              else out[t.tensor][t.channel + i] = in[q.tensor][q.channel + i * streams + k];
            }
          }
        }
      }
      for (const auto& [stream, packed] : plan.singles) {
        if constexpr (PACK) out[packed.tensor][packed.channel] = in[stream.tensor][stream.channel];
        else out[stream.tensor][stream.channel] = in[packed.tensor][packed.channel];
      }
    }
  });
}

template <bool PACK, class U>
void shuffle_pixels(const ChannelShuffleArgs& a, int64_t streams, int64_t length) {
  switch (streams) {
    case 1: return shuffle_pixels<PACK, 1, U>(a, streams, length);
    case 2: return shuffle_pixels<PACK, 2, U>(a, streams, length);
    case 3: return shuffle_pixels<PACK, 3, U>(a, streams, length);
    case 4: return shuffle_pixels<PACK, 4, U>(a, streams, length);
    case 6: return shuffle_pixels<PACK, 6, U>(a, streams, length);
    case 8: return shuffle_pixels<PACK, 8, U>(a, streams, length);
    default: return shuffle_pixels<PACK, 0, U>(a, streams, length);
  }
}

template <class U>
void shuffle_pixels(const ChannelShuffleArgs& a) {
  const int64_t g = a.shape.groups, m = a.shape.channels() / g;
  if (g <= m) shuffle_pixels<true, U>(a, g, m);
  else shuffle_pixels<false, U>(a, m, g);
}

}  // namespace

void channel_shuffle(const ChannelShuffleArgs& a) {
  const ShuffleShape& s = a.shape;
  if (s.N * s.HW * s.channels() == 0) return;
  if (!s.channels_last && s.HW > 1) return shuffle_planes(a);  // planes of one element are pixels too
  switch (s.element_size) {
    case 2: return shuffle_pixels<uint16_t>(a);
    case 4: return shuffle_pixels<uint32_t>(a);
    default: return shuffle_pixels<uint64_t>(a);
  }
}

}  // namespace ck::cpu::CK_ISA

#include "../../csrc/cpu/nms.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "../../csrc/cuda/nms.h"
#include "drive.h"

using namespace drive;

namespace {

// What the caller does between the calls: a stable argsort of each row.
template <class K, class Before>
Buffer<int64_t> argsort(const Buffer<K>& keys, int64_t images, int64_t n, Before before) {
  Buffer<int64_t> order(images * n);
  for (int64_t i = 0; i < images; ++i) {
    int64_t* row = order.data() + i * n;
    const K* k = keys.data() + i * n;
    std::iota(row, row + n, int64_t(0));
    std::stable_sort(row, row + n, [&](int64_t a, int64_t b) { return before(k[a], k[b]); });
  }
  return order;
}

// Overlapping boxes of every size, tied scores, some empty, some infinite, some scores not a number.
template <class T>
void fill(Buffer<T>& boxes, Buffer<T>& scores, unsigned seed) {
  std::mt19937 g(seed);
  std::uniform_real_distribution<float> place(0.f, 12.f), size(-0.5f, 6.f), score(0.f, 1.f);
  for (int64_t i = 0; i < scores.n; ++i) {
    const float x = place(g), y = place(g);
    const float corners[4] = {x, y, x + size(g), y + size(g)};
    for (int k = 0; k < 4; ++k) boxes[4 * i + k] = T(corners[k]);
    scores[i] = T(std::round(score(g) * 32.f) / 32.f);
    if (i % 23 == 7) boxes[4 * i + 2] = T(INFINITY);
    if (i % 29 == 11) scores[i] = T(NAN);
    if (i % 31 == 13) scores[i] = T(INFINITY);
  }
}

template <class T>
void run(int64_t images, int64_t n, ck::Overlap kind, double beta, bool segmented, int64_t max_out,
         int64_t band_bytes) {
  const float threshold = 0.25f;
  Buffer<T> boxes(images * n * 4), scores(images * n);
  fill(boxes, scores, unsigned(n));
  Buffer<int64_t> segments(segmented ? images * n : 0);
  for (int64_t i = 0; i < segments.n; ++i) segments[i] = i * 7 % 3 - 1;
  const int64_t* ids_in = segmented ? segments.data() : nullptr;
  const auto ok = [](cudaError_t e) { expect("launch", e == cudaSuccess); };

  const ck::cuda::NmsProblem p{DtypeOf<T>::value, boxes.data(), scores.data(), ids_in, images, n,
                               threshold,         kind,         beta,          max_out};
  Buffer<float> keys(images * n);
  ok(ck::cuda::nms_keys(p, keys.data(), nullptr));
  const auto by_score = argsort(keys, images, n, [](float a, float b) { return a > b; });
  Buffer<int64_t> ids(segments.n), sorted_ids(segments.n), by_segment(0);
  if (segmented) {
    ok(ck::cuda::nms_segment_ids(p, by_score.data(), ids.data(), nullptr));
    by_segment = argsort(ids, images, n, [](int64_t a, int64_t b) { return a < b; });
    for (int64_t i = 0; i < ids.n; ++i) sorted_ids[i] = ids[i / n * n + by_segment[i]];
  }
  const int64_t words = ck::cuda::nms_words(n), band = ck::cuda::nms_band(images, n, band_bytes);
  Buffer<float4> placed(images * n);
  Buffer<float> angles(kind == ck::Overlap::ciou ? images * n : 0);
  Buffer<int32_t> ends(images * n);
  Buffer<uint64_t> removed(images * words), kept(images * words), mask(images * 64 * band * words);
  const ck::cuda::NmsWork w{by_score.data(),
                            segmented ? sorted_ids.data() : nullptr,
                            segmented ? by_segment.data() : nullptr,
                            placed.data(),
                            angles.n ? angles.data() : nullptr,
                            ends.data(),
                            removed.data(),
                            kept.data(),
                            mask.data(),
                            band};
  Buffer<int64_t> indices(images * max_out), count(images);
  ok(ck::cuda::nms_select(p, w, indices.data(), count.data(), nullptr));

  char name[96];
  std::snprintf(name, sizeof name, "size %zu images %d n %d kind %d beta %g segments %d max_out %d band %d", sizeof(T),
                int(images), int(n), int(kind), beta, int(segmented), int(max_out), int(band));
  for_each_isa([&] {
    Buffer<int64_t> cpu_indices(images * max_out), cpu_count(images);
    ck::cpu::nms({DtypeOf<T>::value, boxes.data(), scores.data(), ids_in, images, n, threshold, kind, beta, max_out,
                  cpu_indices.data(), cpu_count.data(), ck::cpu::serial_pool()});
    expect(name, std::memcmp(cpu_count.data(), count.data(), images * sizeof(int64_t)) == 0 &&
                     std::memcmp(cpu_indices.data(), indices.data(), indices.n * sizeof(int64_t)) == 0);
  });
  if (n > 60) expect("some boxes go and some stay", count[0] > 3 && (max_out < n ? count[0] <= max_out : count[0] < n));
}

const ck::Overlap kKinds[] = {ck::Overlap::iou, ck::Overlap::giou, ck::Overlap::diou, ck::Overlap::ciou};
constexpr int64_t kWhole = 1 << 20;  // mask bytes: one band
constexpr int64_t kOneTile = 1;      // a band per tile

}  // namespace

DRIVE(nms) {
  for_each_type([](auto t) {
    using T = decltype(t);
    for (int64_t n : {0, 1, 5, 64, 65, 200})
      for (ck::Overlap kind : kKinds)
        for (bool segmented : {false, true}) run<T>(2, n, kind, 1.0, segmented, n, n % 2 ? kWhole : kOneTile);
  });
}

DRIVE(nms_power_and_padding) {
  for (ck::Overlap kind : {ck::Overlap::diou, ck::Overlap::ciou}) run<float>(1, 130, kind, 0.6, true, 130, kWhole);
  run<float>(3, 130, ck::Overlap::iou, 1.0, false, 20, kWhole);   // fewer than are kept
  run<float>(2, 65, ck::Overlap::diou, 1.0, false, 100, kWhole);  // more than there are
  run<float>(0, 8, ck::Overlap::iou, 1.0, false, 8, kWhole);
}

// Several bands of several tiles each, and segments that end inside a tile.
DRIVE(nms_bands) {
  for (bool segmented : {false, true}) run<float>(1, 1000, ck::Overlap::diou, 1.0, segmented, 1000, 3 * 64 * 16 * 8);
}

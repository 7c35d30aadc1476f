// A sequence's own tile: rows of the model's type, straight from global memory.
//
// Rows are those of products and queries the columns, as with packed tiles. Which of a row's
// channels is which column of an operand is ours to choose: a lane's lie side by side.
#pragma once
#include "keys.cuh"
#include "softmax.cuh"

constexpr int SLAB = 16;                   // rows of a product, and a unit of work
constexpr int OWN_BLOCKS = HEAD_DIM / 16;  // products that cover the channels

// Sums of own rows: rows g and g+8 of fragment i are channels g·D/8 + 2i and + 2i + 1.
typedef float OwnSums[OWN_BLOCKS][4];

// Where rows of a tile are: before `fresh` in the tail, keys beside values; that one in the step.
struct OwnRows {
  const Element* tail;
  const Element* fresh_row;
  int fresh;

  // A row that does not exist is the last one, whose weight is then 0.
  DEVICE const Element* at(int row) const {
    return row < fresh ? tail + row * (2 * HEAD_DIM) : fresh_row;
  }
};

// Load COUNT pairs of elements that lie side by side.
template <int COUNT>
DEVICE void load_pairs(const Element* at, u32 (&pairs)[COUNT]) {
  if constexpr (COUNT % 4 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
      const uint4 four = ((const uint4*)at)[i / 4];
      pairs[i] = four.x, pairs[i + 1] = four.y, pairs[i + 2] = four.z, pairs[i + 3] = four.w;
    }
  } else if constexpr (COUNT % 2 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 2) {
      const uint2 two = ((const uint2*)at)[i / 2];
      pairs[i] = two.x, pairs[i + 1] = two.y;
    }
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; i++) pairs[i] = ((const u32*)at)[i];
  }
}

// 16 rows on their way: of keys, lane (g, t) has channels t·D/4 and on of rows g and g+8; of values,
// channels g·D/8 and on of rows 2t, 2t+1, 2t+8 and 2t+9.
struct KeyRows {
  u32 upper[HEAD_DIM / 8], lower[HEAD_DIM / 8];

  DEVICE void load(const OwnRows& keys, int row) {
    const int g = lane_id() >> 2, first = (lane_id() & 3) * (HEAD_DIM / 4);
    load_pairs(keys.at(row + g) + first, upper);
    load_pairs(keys.at(row + g + 8) + first, lower);
  }
};

struct ValueRows {
  u32 rows[4][OWN_BLOCKS];

  DEVICE void load(const OwnRows& values, int row) {
    const int g = lane_id() >> 2, t = lane_id() & 3;
#pragma unroll
    for (int i = 0; i < 4; i++)
      load_pairs(values.at(row + 2 * t + i / 2 * 8 + i % 2) + g * (HEAD_DIM / 8), rows[i]);
  }
};

// Products of queries with 16 rows.
DEVICE void score_rows(const Element* query, bool asked, const KeyRows& keys, float (&scores)[4]) {
  u32 column[HEAD_DIM / 8];
  load_pairs(query + (lane_id() & 3) * (HEAD_DIM / 4), column);
#pragma unroll
  for (int i = 0; i < HEAD_DIM / 8; i += 2)
    mma_model(scores, keys.upper[i], keys.lower[i], keys.upper[i + 1], keys.lower[i + 1],
              asked ? column[i] : 0, asked ? column[i + 1] : 0, scores);
}

// Fade the sums, and add 16 weighed rows of values.
DEVICE void add_rows(const ValueRows& values, const float (&weights)[4], const float (&fade)[2],
                     OwnSums& sums) {
  const u32 early = transposed(pack_model(weights[0], weights[1]));
  const u32 late = transposed(pack_model(weights[2], weights[3]));
#pragma unroll
  for (int block = 0; block < OWN_BLOCKS; block++) {
    float(&sum)[4] = sums[block];
#pragma unroll
    for (int i = 0; i < 4; i++) sum[i] *= fade[i % 2];
    const u32 rows[4] = {values.rows[0][block], values.rows[1][block], values.rows[2][block],
                         values.rows[3][block]};
    mma_model(sum, low_halves(rows[0], rows[1]), high_halves(rows[0], rows[1]),
              low_halves(rows[2], rows[3]), high_halves(rows[2], rows[3]), early, late, sum);
  }
}

// Whether there are registers for the next rows while these are attended.
constexpr bool AHEAD = HEAD_DIM <= 256;

// Take in the warp's share of slabs begin to end of a tile with `count` rows.
DEVICE void attend_slabs(const Element* query, bool asked, const OwnRows& keys,
                         const OwnRows& values, int begin, int end, int count, float factor,
                         float cap, Softmax& softmax, OwnSums& sums) {
  const int g = lane_id() >> 2, first = (begin + partner()) * SLAB, step = PARTNERS * SLAB;
  const int stop = min(end * SLAB, count);
  KeyRows key_rows;
  ValueRows value_rows;
  if (AHEAD) key_rows.load(keys, first);
  if (AHEAD) value_rows.load(values, first);
#pragma unroll 1
  for (int row = first; row < stop; row += step) {
    const bool more = AHEAD && row + step < stop;
    float scores[1][4] = {};
    if (!AHEAD) key_rows.load(keys, row);
    score_rows(query, asked, key_rows, scores[0]);
    if (more) key_rows.load(keys, row + step);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const bool exists = row + g + i / 2 * 8 < count;
      scores[0][i] = exists ? as_exponent(scores[0][i] * factor, cap) : NOTHING;
    }
    float weight[2], fade[2];
    softmax.weigh(scores, weight, fade);
    if (!AHEAD) value_rows.load(values, row);
    add_rows(value_rows, scores[0], fade, sums);
    if (more) value_rows.load(values, row + step);
  }
}

// Store the sums of column `column` of the lane's two, times a scale.
DEVICE void store_own(const OwnSums& sums, int column, float scale, float* channels) {
  float2* pairs = (float2*)(channels + (lane_id() >> 2) * (HEAD_DIM / 8));
#pragma unroll
  for (int block = 0; block < OWN_BLOCKS; block++)
    pairs[block] = make_float2(sums[block][column] * scale, sums[block][column + 2] * scale);
}

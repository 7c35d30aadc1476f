// A packed tile's values, weighed and added up.
//
// With weights p of the tokens, and codes, middle, scales and means as those of keys.cuh,
//
//   out[d] += channel[d] · (Σ_t c[t,d]·p'[t] − m·Σ_t p'[t]) + mean[d]·Σ_t p[t],  p' = p · token
//
// Codes are the rows here as well: a product takes 16 words, those of 16 channels of each plane.
#pragma once
#include "keys.cuh"

typedef Planes<VALUE_BITS> Value;

constexpr int VALUE_BLOCKS = (Value::WORDS + 15) / 16;  // products that cover a plane's words

// Sums of a packed history: [plane, block] of a fragment. Row g of a fragment is word 2g of its
// block and row g+8 word 2g+1, so that what belongs to them lies side by side.
typedef float PackedSums[Value::COUNT][VALUE_BLOCKS][4];

// Word of row g; it does not exist in a block that is not full, where the lane reads others.
DEVICE int value_word_at(int block) { return block * 16 + lane_id() / 4 * 2; }
DEVICE bool value_word_exists(int block) { return value_word_at(block) < Value::WORDS; }
DEVICE int value_word(int block) { return min(value_word_at(block), Value::WORDS - 2); }

// Eight neighbouring tokens of a word: lane t's operand of two steps.
DEVICE uint4 value_words(const u8* values, int word, int quarter) {
  return *(const uint4*)(values + 2 * (word * TILE + quarter * 32 + (lane_id() & 3) * 8));
}

DEVICE uint4 high_words(const u8* values, int word, int quarter) {
  if constexpr (VALUE_BITS != 3) return make_uint4(0, 0, 0, 0);
  const int group = word / Value::HIGH_WORDS;
  uint4 high = value_words(values, Value::WORDS + word % Value::HIGH_WORDS, quarter);
  high.x >>= group, high.y >>= group, high.z >>= group, high.w >>= group;
  return high;
}

// Weights times their tokens' factors, as operands: [block][half] as keys.cuh numbers tokens.
DEVICE void scaled_weights(const u8* values, const float (&weights)[8][4], u32 (&scaled)[8][2]) {
#pragma unroll
  for (int quarter = 0; quarter < 4; quarter++) {
    float token[4];
    token_scales(values + VALUE_TOKEN_SCALE, quarter, token);
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float(&w)[4] = weights[quarter * 2 + i / 2];
      scaled[quarter * 2 + i / 2][i % 2] = transposed(
          pack_half(w[i % 2 * 2] * token[i], w[i % 2 * 2 + 1] * token[i]));
    }
  }
}

// Products of a block's codes, all planes, with the weights, in units of the planes.
DEVICE void multiply_block(const u8* values, int block, const u32 (&scaled)[8][2],
                           float (&products)[Value::COUNT][4]) {
  const int word = value_word(block);
#pragma unroll
  for (int quarter = 0; quarter < 4; quarter++) {
    const uint4 upper = value_words(values, word, quarter);
    const uint4 lower = value_words(values, word + 1, quarter);
    const uint4 upper_high = high_words(values, word, quarter);
    const uint4 lower_high = high_words(values, word + 1, quarter);
    const u32(&early)[2] = scaled[2 * quarter];
    const u32(&late)[2] = scaled[2 * quarter + 1];
#pragma unroll
    for (int plane = 0; plane < Value::COUNT; plane++) {
      mma_half(products[plane], Value::codes(upper.x, upper_high.x, plane),
               Value::codes(lower.x, lower_high.x, plane),
               Value::codes(upper.y, upper_high.y, plane),
               Value::codes(lower.y, lower_high.y, plane), early[0], early[1], products[plane]);
      mma_half(products[plane], Value::codes(upper.z, upper_high.z, plane),
               Value::codes(lower.z, lower_high.z, plane),
               Value::codes(upper.w, upper_high.w, plane),
               Value::codes(lower.w, lower_high.w, plane), late[0], late[1], products[plane]);
    }
  }
}

// Fade the sums, and add a tile's values.
//
// `values` is the tile from its value codes on, and offsets count from there; `weight` are the sums
// of the weights of the lane's two columns, over all rows.
DEVICE void add_tile(const u8* values, const float (&weights)[8][4], const float (&weight)[2],
                     const float (&fade)[2], PackedSums& sums) {
  u32 scaled[8][2];
  scaled_weights(values, weights, scaled);
  float total[4] = {};
#pragma unroll
  for (int block = 0; block < 8; block++)
    mma_half(total, ONES, ONES, ONES, ONES, scaled[block][0], scaled[block][1], total);
#pragma unroll
  for (int block = 0; block < VALUE_BLOCKS; block++) {
    float products[Value::COUNT][4];
#pragma unroll
    for (int plane = 0; plane < Value::COUNT; plane++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        products[plane][i] = total[i % 2] * (-Value::MIDDLE * Value::unit(plane));
    multiply_block(values, block, scaled, products);
#pragma unroll
    for (int plane = 0; plane < Value::COUNT; plane++) {
      const int channel = plane * Value::WORDS + value_word(block);
      const u32 scale = *(const u32*)(values + VALUE_CHANNEL_SCALE + 2 * channel);
      const u32 mean = *(const u32*)(values + VALUE_MEAN + 2 * channel);
      const float scales[2] = {low_half(scale) / Value::unit(plane),
                               high_half(scale) / Value::unit(plane)};
      const float means[2] = {low_half(mean), high_half(mean)};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float& sum = sums[plane][block][i];
        sum = products[plane][i] * scales[i / 2] + (means[i / 2] * weight[i % 2] + sum * fade[i % 2]);
      }
    }
  }
}

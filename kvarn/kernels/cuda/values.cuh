// A packed tile's values, weighed and added up.
//
// With weights p of the tokens, and codes, middle, scales and means as those of keys.cuh,
//
//   out[d] += channel[d] · (Σ_t c[t,d]·p'[t] − m·Σ_t p'[t]) + mean[d]·Σ_t p[t],  p' = p · token
//
// Codes are the rows here as well.
#pragma once
#include "keys.cuh"

typedef Planes<VALUE_BITS> Value;

// A product takes 8 words of two planes, H apart: row g is plane p of a word, row g+8 plane p + H.
constexpr int PLANE_PAIRS = Value::COUNT / 2;
constexpr int VALUE_BLOCKS = (Value::WORDS + 7) / 8;  // products that cover a plane's words
constexpr int TWIN_BLOCKS = Value::WORDS / 16 * 2;    // those that come in twos

// Sums of a packed history: [block, pair of planes] of a fragment.
typedef float PackedSums[VALUE_BLOCKS][PLANE_PAIRS][4];

// Word of row g. Twins have every other word of sixteen, so that what belongs to a row of both lies
// side by side. In a block that is not full some do not exist, and the lane reads others.
DEVICE int value_word_at(int block) {
  const int g = lane_id() >> 2;
  return block < TWIN_BLOCKS ? block / 2 * 16 + 2 * g + block % 2 : block * 8 + g;
}
DEVICE bool value_word_exists(int block) { return value_word_at(block) < Value::WORDS; }
DEVICE int value_word(int block) { return min(value_word_at(block), Value::WORDS - 1); }

DEVICE int plane_of(int pair, int half) { return pair + half * PLANE_PAIRS; }

// Eight neighbouring tokens of a word: lane t's operand of two steps.
DEVICE uint4 value_words(const u8* values, int word, int quarter) {
  return *(const uint4*)(values + 2 * (word * TILE + first_token() + quarter * 32 + (lane_id() & 3) * 8));
}

DEVICE uint4 high_words(const u8* values, int word, int quarter) {
  if constexpr (VALUE_BITS != 3) return make_uint4(0, 0, 0, 0);
  const int group = word / Value::HIGH_WORDS;
  uint4 high = value_words(values, Value::WORDS + word % Value::HIGH_WORDS, quarter);
  high.x >>= group, high.y >>= group, high.z >>= group, high.w >>= group;
  return high;
}

// Weights times their tokens' factors, as operands: [block][half] as keys.cuh numbers tokens.
DEVICE void scaled_weights(const u8* values, const float (&weights)[TOKEN_BLOCKS][4], u32 (&scaled)[TOKEN_BLOCKS][2]) {
#pragma unroll
  for (int quarter = 0; quarter < QUARTERS; quarter++) {
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

// Products of a block's codes with the weights, in units of the planes.
DEVICE void multiply_block(const u8* values, int block, const u32 (&scaled)[TOKEN_BLOCKS][2],
                           float (&products)[PLANE_PAIRS][4]) {
  const int word = value_word(block);
#pragma unroll
  for (int quarter = 0; quarter < QUARTERS; quarter++) {
    const uint4 words = value_words(values, word, quarter);
    const uint4 high = high_words(values, word, quarter);
    const u32(&early)[2] = scaled[2 * quarter];
    const u32(&late)[2] = scaled[2 * quarter + 1];
#pragma unroll
    for (int pair = 0; pair < PLANE_PAIRS; pair++) {
      const int upper = plane_of(pair, 0), lower = plane_of(pair, 1);
      mma_half(products[pair], Value::codes(words.x, high.x, upper),
               Value::codes(words.x, high.x, lower), Value::codes(words.y, high.y, upper),
               Value::codes(words.y, high.y, lower), early[0], early[1], products[pair]);
      mma_half(products[pair], Value::codes(words.z, high.z, upper),
               Value::codes(words.z, high.z, lower), Value::codes(words.w, high.w, upper),
               Value::codes(words.w, high.w, lower), late[0], late[1], products[pair]);
    }
  }
}

// A field of a block's channels, [pair of planes][half].
DEVICE void channel_field(const u8* field, int block, float (&numbers)[PLANE_PAIRS][2]) {
#pragma unroll
  for (int pair = 0; pair < PLANE_PAIRS; pair++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int channel = plane_of(pair, half) * Value::WORDS + value_word(block);
      if (block < TWIN_BLOCKS) {
        const u32 twins = *(const u32*)(field + 2 * (channel - block % 2));
        numbers[pair][half] = block % 2 ? high_half(twins) : low_half(twins);
      } else {
        numbers[pair][half] = half_to_float(*(const u16*)(field + 2 * channel));
      }
    }
}

// Fade the sums, and add a tile's values.
//
// `values` is the tile from its value codes on, and offsets count from there; `weight` are the sums
// of the weights of the lane's two columns, over all rows.
DEVICE void add_tile(const u8* values, const float (&weights)[TOKEN_BLOCKS][4], const float (&weight)[2],
                     const float (&fade)[2], PackedSums& sums) {
  u32 scaled[TOKEN_BLOCKS][2];
  scaled_weights(values, weights, scaled);
  float total[4] = {};
#pragma unroll
  for (int block = 0; block < TOKEN_BLOCKS; block++)
    mma_half(total, ONES, ONES, ONES, ONES, scaled[block][0], scaled[block][1], total);
#pragma unroll
  for (int block = 0; block < VALUE_BLOCKS; block++) {
    float products[PLANE_PAIRS][4];
#pragma unroll
    for (int pair = 0; pair < PLANE_PAIRS; pair++)
#pragma unroll
      for (int i = 0; i < 4; i++)
        products[pair][i] = total[i % 2] * (-Value::MIDDLE * Value::unit(plane_of(pair, i / 2)));
    multiply_block(values, block, scaled, products);
    float scales[PLANE_PAIRS][2], means[PLANE_PAIRS][2];
    channel_field(values + VALUE_CHANNEL_SCALE, block, scales);
    channel_field(values + VALUE_MEAN, block, means);
#pragma unroll
    for (int pair = 0; pair < PLANE_PAIRS; pair++)
#pragma unroll
      for (int i = 0; i < 4; i++) {
        float& sum = sums[block][pair][i];
        const float scale = scales[pair][i / 2] / Value::unit(plane_of(pair, i / 2));
        sum = products[pair][i] * scale + (means[pair][i / 2] * weight[i % 2] + sum * fade[i % 2]);
      }
  }
}

// Store the sums of column `column` of the lane's two, times a scale.
DEVICE void store_packed(const PackedSums& sums, int column, float scale, float* channels) {
#pragma unroll
  for (int block = 0; block < VALUE_BLOCKS; block++)
#pragma unroll
    for (int pair = 0; pair < PLANE_PAIRS; pair++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        float* at = channels + plane_of(pair, half) * Value::WORDS + value_word_at(block);
        const float sum = sums[block][pair][column + 2 * half] * scale;
        if (block < TWIN_BLOCKS && block % 2 == 0)
          *(float2*)at = make_float2(sum, sums[block + 1][pair][column + 2 * half] * scale);
        else if (block >= TWIN_BLOCKS && value_word_exists(block))
          *at = sum;
      }
}

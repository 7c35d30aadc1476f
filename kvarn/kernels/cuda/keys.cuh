// Scores of a packed tile's keys.
//
// With codes c, their middle m, and the scales and means of the format,
//
//   score[t] = token[t] · (Σ_d c[t,d]·q'[d] − m·Σ_d q'[d]) + Σ_d mean[d]·q[d],  q' = q · channel
//
// so that products are with the codes themselves. Codes are the rows of the products and queries
// the columns; all rows of a product with ones, or with the mean, are the same.
#pragma once
#include "batch.cuh"
#include "planes.cuh"

typedef Planes<KEY_BITS> Key;


// A tile may be shared by two warps, partners, each of which takes half of its tokens.
constexpr int QUARTERS = 4 / PARTNERS;    // of a tile, 32 tokens each, that a warp takes
constexpr int TOKEN_BLOCKS = 2 * QUARTERS;  // products that cover those

DEVICE int partner() { return PARTNERS == 1 ? 0 : threadIdx.x / 32; }
DEVICE int first_token() { return partner() * QUARTERS * 32; }

// Wait for the partner.
DEVICE void meet() {
  if (PARTNERS == 1)
    __syncwarp();
  else
    __syncthreads();
}
constexpr int ROW_BYTES = HEAD_DIM * KEY_BITS / 8;  // of a token's codes
constexpr int KEY_STEPS = (Key::WORDS + 15) / 16;    // products that cover a plane's channels

static_assert(Key::WORDS % 4 == 0 && (KEY_BITS != 3 || Key::HIGH_WORDS % 4 == 0),
              "a lane takes four words of a row at a time");

// Pairs of steps whose words of a lane lie side by side, 16 bytes that are loaded at once; the
// steps after them take 8 bytes each.
constexpr bool CAN_PAIR = KEY_BITS != 3 && Key::WORDS % 8 == 0 && Key::WORDS > 16;
constexpr int STEP_PAIRS = CAN_PAIR ? (Key::WORDS + 15) / 32 : 0;

// The first of the four words of a step that are lane t's.
DEVICE int key_word_at(int step, int t) {
  return step < 2 * STEP_PAIRS ? step / 2 * 32 + 8 * t + step % 2 * 4 : step * 16 + 4 * t;
}

// Whether there is such a word. Where not, the lane reads others, which its query's zeros cancel.
DEVICE bool key_word_exists(int step, int t) { return key_word_at(step, t) < Key::WORDS; }
DEVICE int key_word(int step, int t) { return min(key_word_at(step, t), Key::WORDS - 4); }

// The token, from the warp's first one on, that is row r of half `half` of product `block`: then the tokens of lane t's
// operand of the product with the values are eight neighbours of a row of theirs.
DEVICE int token_of(int block, int half, int r) {
  return block / 2 * 32 + r / 2 * 8 + block % 2 * 4 + half * 2 + r % 2;
}

// Factors of the four tokens of a quarter that are row g of its products: of blocks 2·quarter and
// 2·quarter + 1, both halves each.
DEVICE void token_scales(const u8* scales, int quarter, float (&token)[4]) {
  const int g = lane_id() >> 2;
  const uint4 eight = *(const uint4*)(scales + 2 * (first_token() + quarter * 32 + g / 2 * 8));
  const u32 pairs[4] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
  for (int i = 0; i < 4; i++) token[i] = half_to_float((u16)(pairs[i] >> g % 2 * 16));
}

struct KeyWords {
  uint2 low, high;
};

// Lane t's words of one step of a token's row.
DEVICE KeyWords key_words(const u8* row, int step, int t) {
  KeyWords words;
  const int word = key_word(step, t);
  words.low = *(const uint2*)(row + 2 * word);
  words.high = make_uint2(0, 0);
  if constexpr (KEY_BITS == 3) {
    const int group = word / Key::HIGH_WORDS;
    words.high = *(const uint2*)(row + 2 * (Key::WORDS + word % Key::HIGH_WORDS));
    words.high.x >>= group;
    words.high.y >>= group;
  }
  return words;
}

// Those of a pair of steps.
DEVICE void key_words_of_pair(const u8* row, int pair, int t, KeyWords (&words)[2]) {
  const uint4 four = *(const uint4*)(row + 2 * min(pair * 32 + 8 * t, Key::WORDS - 8));
  words[0] = {make_uint2(four.x, four.y), make_uint2(0, 0)};
  words[1] = {make_uint2(four.z, four.w), make_uint2(0, 0)};
}

// One step of one product: rows of 16 tokens, all planes.
DEVICE void add_codes(float (&scores)[4], const KeyWords& upper, const KeyWords& lower,
                      const uint2 (&query)[Key::COUNT]) {
#pragma unroll
  for (int plane = 0; plane < Key::COUNT; plane++)
    mma_half(scores, Key::codes(upper.low.x, upper.high.x, plane),
             Key::codes(lower.low.x, lower.high.x, plane),
             Key::codes(upper.low.y, upper.high.y, plane),
             Key::codes(lower.low.y, lower.high.y, plane), query[plane].x, query[plane].y, scores);
}

constexpr u32 ONES = 0x3c003c00u;  // two halves

// Two halves that are 2^-exponent.
DEVICE constexpr u32 inverse_power(int exponent) { return (15u - exponent) * 0x04000400u; }

// A query's operands: its numbers in shared memory, [plane, step, lane] of four halves.
constexpr int QUERY_OPERANDS = Key::COUNT * KEY_STEPS * 32;

// The queries of a step, times the channels' scales; adds up their sums, and those of the means.
DEVICE void scaled_query(const u8* keys, const uint2* operands, int step,
                         uint2 (&query)[Key::COUNT], float (&shift)[4], float (&offset)[4]) {
  const int lane = lane_id(), word = key_word(step, lane & 3);
#pragma unroll
  for (int plane = 0; plane < Key::COUNT; plane++) {
    const uint2 q = operands[(plane * KEY_STEPS + step) * 32 + lane];
    const int channel = plane * Key::WORDS + word;
    const uint2 scale = *(const uint2*)(keys + KEY_CHANNEL_SCALE + 2 * channel);
    const uint2 mean = *(const uint2*)(keys + KEY_MEAN + 2 * channel);
    uint2 product = make_uint2(multiply_half(q.x, scale.x), multiply_half(q.y, scale.y));
    mma_half(shift, ONES, ONES, ONES, ONES, product.x, product.y, shift);
    mma_half(offset, mean.x, mean.x, mean.y, mean.y, q.x, q.y, offset);
    if (Key::place(plane) != 0) {
      const u32 share = inverse_power(Key::place(plane));
      product = make_uint2(multiply_half(product.x, share), multiply_half(product.y, share));
    }
    query[plane] = product;
  }
}

// Scores of the warp's tokens as fragments of products: row r of half i of block b is
// token_of(b, i, r).
DEVICE void score_tile(const u8* keys, const uint2* operands, float factor,
                       float (&scores)[TOKEN_BLOCKS][4]) {
  const int lane = lane_id(), g = lane >> 2, t = lane & 3;
  const u8* rows = keys + first_token() * ROW_BYTES;
  float shift[4] = {}, offset[4] = {};
#pragma unroll
  for (int block = 0; block < TOKEN_BLOCKS; block++)
    scores[block][0] = scores[block][1] = scores[block][2] = scores[block][3] = 0.f;
#pragma unroll
  for (int pair = 0; pair < STEP_PAIRS; pair++) {
    uint2 query[2][Key::COUNT];
    scaled_query(keys, operands, 2 * pair, query[0], shift, offset);
    scaled_query(keys, operands, 2 * pair + 1, query[1], shift, offset);
#pragma unroll
    for (int block = 0; block < TOKEN_BLOCKS; block++) {
      KeyWords upper[2], lower[2];
      key_words_of_pair(rows + token_of(block, 0, g) * ROW_BYTES, pair, t, upper);
      key_words_of_pair(rows + token_of(block, 1, g) * ROW_BYTES, pair, t, lower);
      add_codes(scores[block], upper[0], lower[0], query[0]);
      add_codes(scores[block], upper[1], lower[1], query[1]);
    }
  }
#pragma unroll
  for (int step = 2 * STEP_PAIRS; step < KEY_STEPS; step++) {
    uint2 query[Key::COUNT];
    scaled_query(keys, operands, step, query, shift, offset);
#pragma unroll
    for (int block = 0; block < TOKEN_BLOCKS; block++)
      add_codes(scores[block], key_words(rows + token_of(block, 0, g) * ROW_BYTES, step, t),
                key_words(rows + token_of(block, 1, g) * ROW_BYTES, step, t), query);
  }
  const float centre[2] = {shift[0] * (-Key::MIDDLE / SUBNORMAL),
                           shift[1] * (-Key::MIDDLE / SUBNORMAL)};
  const float mean[2] = {offset[0] * factor, offset[1] * factor};
#pragma unroll
  for (int quarter = 0; quarter < QUARTERS; quarter++) {
    float token[4];
    token_scales(keys + KEY_TOKEN_SCALE, quarter, token);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float& score = scores[quarter * 2 + i / 4][i % 4];
      score = (score + centre[i % 2]) * (token[i / 2] * (factor * SUBNORMAL)) + mean[i % 2];
    }
  }
}

// The shared memory of a block: rotated channels of a tile, and what belongs to channels and tokens.
//
// A tile of up to 256 channels is one slab; of more channels, a slab at a time is rotated, and again
// whenever the tokens' scales are known anew. A thread computes with four neighbouring channels and
// the tokens of a group where it sums over tokens, with every PARTS-th four of two tokens where it
// sums over channels.
#pragma once
#include "batch.cuh"

constexpr int SLAB = HEAD_DIM <= 256 ? HEAD_DIM : 128;  // channels
constexpr int SLABS = HEAD_DIM / SLAB;
constexpr int QUADS = SLAB / 4;
constexpr int GROUPS = 8;  // of tokens
constexpr int GROUP_TOKENS = TILE / GROUPS;
constexpr int THREADS = GROUPS * QUADS, WARPS = THREADS / 32;
constexpr int PARTS = THREADS < 256 ? 2 : THREADS < 512 ? 4 : 8;  // threads that share two tokens

static_assert(HEAD_DIM % SLAB == 0 && THREADS % 32 == 0 && QUADS % PARTS == 0, "no thread is left");

// Lanes with neighbouring tokens reach all banks.
constexpr int FIRST_BANK = PARTS == 2 ? 8 : 16;
constexpr int ROW = (SLAB + 31 - FIRST_BANK) / 32 * 32 + FIRST_BANK;

struct Token {
  float inverse, scale;                // what codes are made with, and what they are fitted by
  float stored_inverse, stored_scale;  // float16 numbers
};

// Results of a group of tokens for each channel. There are up to three; where the codes are made
// there is one, and they lie where the others were, if no slab follows.
constexpr int RESULT_FLOATS = GROUPS * SLAB, CODES_BEGIN = RESULT_FLOATS * (SLABS == 1 ? 1 : 3);

// Four tokens' codes of a channel are a word. Neighbouring words of a channel, every fourth channel
// and neighbouring channels lie in different banks.
constexpr int CODES_ROW = TILE / 4 + 1, CODES_QUARTER = HEAD_DIM / 4 * CODES_ROW + 8;

struct Shared {
  float x[TILE][ROW];
  Token token[TILE];
  float inverse[HEAD_DIM];  // of the step between the lowest and the highest code
  float shift[HEAD_DIM];    // the mean in such steps, negative; before there are steps, the mean
  float square[HEAD_DIM];   // of the channel's scale
  float sum[HEAD_DIM];
  float results_and_codes[CODES_BEGIN + 4 * CODES_QUARTER];

  DEVICE float* results(int which, int group) {
    return results_and_codes + which * RESULT_FLOATS + group * SLAB;
  }
  DEVICE const float* results(int which, int group) const {
    return results_and_codes + which * RESULT_FLOATS + group * SLAB;
  }
  DEVICE u32& codes_at(int channel, int four) {
    return ((u32*)results_and_codes)[CODES_BEGIN + (channel & 3) * CODES_QUARTER +
                                     (channel >> 2) * CODES_ROW + four];
  }
};
static_assert(sizeof(Shared) == SHARED_BYTES, "what a program asks for");
static_assert(4 * CODES_QUARTER >= 2 * RESULT_FLOATS, "there is room for three results");

DEVICE void load_four(const float* at, float (&four)[4]) {
  const float4 x = *(const float4*)at;
  four[0] = x.x, four[1] = x.y, four[2] = x.z, four[3] = x.w;
}

DEVICE void store_four(float* at, const float (&four)[4]) {
  *(float4*)at = make_float4(four[0], four[1], four[2], four[3]);
}

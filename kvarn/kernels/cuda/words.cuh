// Codes into words, and words into their places in a tile.
#pragma once
#include "slab.cuh"

// Words [HEAD_DIM·BITS/16, 128] of some bits of all codes: those from `shift` on.
//
// A byte of a word's half takes its fields from as many channels, four tokens at once.
template <int BITS>
struct Words {
  static constexpr int COUNT = HEAD_DIM * BITS / 16, FIELDS = 8 / BITS;

  // Codes of a word's field; where words come in fours, they lie alike in every field.
  DEVICE static u32 codes(Shared& shared, int word, int four, int field) {
    if constexpr (COUNT % 4 == 0)
      return (&shared.codes_at(word, four))[field * (COUNT / 4 * CODES_ROW)];
    else
      return shared.codes_at(field * COUNT + word, four);
  }

  DEVICE static u32 halves(Shared& shared, int word, int four, int shift, int first) {
    constexpr u32 MASK = ((1 << BITS) - 1) * 0x01010101u;
    u32 half = 0;
#pragma unroll
    for (int i = 0; i < FIELDS; i++)
      half |= (codes(shared, word, four, first + i) >> shift & MASK) << i * BITS;
    return half;
  }

  // The words of four tokens.
  DEVICE static uint2 of(Shared& shared, int word, int four, int shift) {
    const u32 low = halves(shared, word, four, shift, 0);
    const u32 high = halves(shared, word, four, shift, FIELDS);
    return make_uint2(bytes_of(low, high, 0x5140), bytes_of(low, high, 0x7362));
  }

  // Token after token, with ROW_WORDS words each.
  template <int ROW_WORDS>
  DEVICE static void store_keys(Shared& shared, u16* words, int shift) {
#pragma unroll 2
    for (u32 i = threadIdx.x; i < COUNT * (TILE / 4); i += THREADS) {
      const int word = i % COUNT, four = i / COUNT;
      const uint2 pairs = of(shared, word, four, shift);
      u16* at = words + 4 * four * ROW_WORDS + word;
      at[0] = (u16)pairs.x, at[ROW_WORDS] = (u16)(pairs.x >> 16);
      at[2 * ROW_WORDS] = (u16)pairs.y, at[3 * ROW_WORDS] = (u16)(pairs.y >> 16);
    }
  }

  // Word after word.
  DEVICE static void store_values(Shared& shared, u16* words, int shift) {
#pragma unroll 2
    for (u32 i = threadIdx.x; i < COUNT * (TILE / 4); i += THREADS)
      ((uint2*)words)[i] = of(shared, i / (TILE / 4), i % (TILE / 4), shift);
  }
};

DEVICE void pack_keys(Shared& shared, u16* words) {
  constexpr int ROW_WORDS = HEAD_DIM * KEY_BITS / 16;
  if constexpr (KEY_BITS == 3) {
    Words<2>::store_keys<ROW_WORDS>(shared, words, 0);
    Words<1>::store_keys<ROW_WORDS>(shared, words + Words<2>::COUNT, 2);
  } else {
    Words<KEY_BITS>::store_keys<ROW_WORDS>(shared, words, 0);
  }
}

DEVICE void pack_values(Shared& shared, u16* words) {
  if constexpr (VALUE_BITS == 3) {
    Words<2>::store_values(shared, words, 0);
    Words<1>::store_values(shared, words + Words<2>::COUNT * TILE, 2);
  } else {
    Words<VALUE_BITS>::store_values(shared, words, 0);
  }
}

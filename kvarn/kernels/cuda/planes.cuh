// Codes as numbers that tensor cores take, without arithmetic.
//
// A field of up to ten low bits of a 16-bit word, all other bits cleared, is a float16: the
// subnormal number code · 2^-24, times a power of two for the field's place. Tensor cores multiply
// subnormals exactly, so one AND unpacks two codes. A code of 3 bits has its low two in a field and
// its high bit in another word.
#pragma once
#include <ptx.cuh>

constexpr float SUBNORMAL = 16777216.f;  // 2^24

template <int BITS>
struct Planes {
  static constexpr int FIELD = BITS == 3 ? 2 : BITS;  // bits of a field
  static constexpr int COUNT = 16 / FIELD;
  static constexpr int WORDS = HEAD_DIM / COUNT;            // of a plane
  static constexpr int HIGH_WORDS = HEAD_DIM / 16;          // of the high bits of 3-bit codes
  static constexpr int DIRECT = BITS == 2 ? 5 : BITS == 3 ? 4 : 2;  // planes whose fields lie low
  static constexpr int SHIFT = BITS == 2 ? 10 : 8;                  // what brings the others there
  static constexpr float MIDDLE = ((1 << BITS) - 1) / 2.f;          // of the codes

  DEVICE static constexpr int place(int plane) { return FIELD * (plane % DIRECT); }

  // What a plane's numbers are, in codes.
  DEVICE static constexpr float unit(int plane) { return (1 << place(plane)) / SUBNORMAL; }

  // The codes of a plane in two words; `high` holds the words of their high bits.
  DEVICE static u32 codes(u32 words, u32 high, int plane) {
    const u32 field = ((1u << FIELD) - 1) << place(plane);
    const u32 mask = field | field << 16;
    const u32 low = (plane < DIRECT ? words : words >> SHIFT) & mask;
    if constexpr (BITS != 3) return low;
    // The high bit of plane p is bit 2p of its word: it belongs two places further up.
    const u32 bit = 4u << place(plane);
    return low | ((plane < DIRECT ? high << 2 : high >> 6) & (bit | bit << 16));
  }
};

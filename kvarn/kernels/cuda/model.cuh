// The type of the model's activations.
#pragma once
#include <arithmetic.cuh>

typedef u16 Element;

#ifdef MODEL_BFLOAT
DEVICE u32 pack_model(float low, float high) { return pack_bfloat(low, high); }
DEVICE float low_model(u32 pair) { return low_bfloat(pair); }
DEVICE float high_model(u32 pair) { return high_bfloat(pair); }
#define mma_model mma_bfloat
#define multiply_add_model multiply_add_bfloat
constexpr u32 ONE = 0x3f80, EXPONENTS = 0x7f807f80, EXPONENT_ONE = 0x00800080;
#else
DEVICE u32 pack_model(float low, float high) { return pack_half(low, high); }
DEVICE float low_model(u32 pair) { return low_half(pair); }
DEVICE float high_model(u32 pair) { return high_half(pair); }
#define mma_model mma_half
#define multiply_add_model multiply_add_half
constexpr u32 ONE = 0x3c00, EXPONENTS = 0x7c007c00, EXPONENT_ONE = 0x04000400;
#endif

// Take elements that are not finite, whose exponents are all ones, for zero; returns how many.
DEVICE int clean(u32& pair) {
  const u32 carried = ((pair & EXPONENTS) + EXPONENT_ONE) & 0x80008000;
  pair &= ~((carried >> 15) * 0xffff);
  return __popc(carried);
}

// Signs in a row and in columns `column` and `column` + 1 of a Hadamard matrix, as ones.
DEVICE u32 signs(int row, int column) {
  const u32 low = __popc(row & column) << 15 & 0x8000;
  const u32 high = __popc(row & (column + 1)) << 15 & 0x8000;
  return (ONE | low) | (ONE | high) << 16;
}

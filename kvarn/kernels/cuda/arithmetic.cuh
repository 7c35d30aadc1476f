// The instructions of the quantiser that CUDA C++ has no name for, one function each.
#pragma once
#include <ptx.cuh>

// Of a normal number, to one unit in the last place.
DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// x·y + z, and 0 or 1 where it lies beyond them.
DEVICE float saturated(float x, float y, float z) {
  float sum;
  asm("fma.rn.ftz.sat.f32 %0, %1, %2, %3;" : "=f"(sum) : "f"(x), "f"(y), "f"(z));
  return sum;
}

// x·y + z of two numbers each.
DEVICE u32 multiply_add_half(u32 x, u32 y, u32 z) {
  u32 sum;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(x), "r"(y), "r"(z));
  return sum;
}

DEVICE u32 multiply_add_bfloat(u32 x, u32 y, u32 z) {
  u32 sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(sum) : "r"(x), "r"(y), "r"(z));
  return sum;
}

DEVICE u32 bits_of(float x) { return __float_as_uint(x); }

// Four of the eight bytes of two registers; digits of `which` number them from the lowest.
DEVICE u32 bytes_of(u32 x, u32 y, u32 which) { return __byte_perm(x, y, which); }

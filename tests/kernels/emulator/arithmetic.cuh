// The host's arithmetic.cuh, and what CUDA C++ has a name for and the host does not.
#pragma once
#include <ptx.cuh>

struct alignas(16) float4 { float x, y, z, w; };
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline int __popc(u32 x) { return __builtin_popcount(x); }
inline uint2 __ldcg(const uint2* at) { return *at; }
inline void atomicAdd(u64* sum, u64 x) { *sum += x; }

inline float reciprocal(float x) { return 1.f / x; }
inline float saturated(float x, float y, float z) {
  return std::fmin(std::fmax(std::fma(x, y, z), 0.f), 1.f);
}
inline u32 multiply_add_half(u32 x, u32 y, u32 z) {
  return pack_half(low_half(x) * low_half(y) + low_half(z),
                   high_half(x) * high_half(y) + high_half(z));
}
inline u32 multiply_add_bfloat(u32 x, u32 y, u32 z) {
  return pack_bfloat(low_bfloat(x) * low_bfloat(y) + low_bfloat(z),
                     high_bfloat(x) * high_bfloat(y) + high_bfloat(z));
}
inline u32 bits_of(float x) {
  u32 bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline u32 bytes_of(u32 x, u32 y, u32 which) {
  const u64 both = (u64)y << 32 | x;
  u32 result = 0;
  for (int i = 0; i < 4; i++)
    result |= (u32)(both >> 8 * (which >> 4 * i & 7) & 255) << 8 * i;
  return result;
}

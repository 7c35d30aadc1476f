// The host's ptx.cuh: a block's threads as fibers that take turns at warp-wide instructions.
//
// Asynchronous copies poison their target at once and arrive when somebody waits for them, so that
// reading too early and writing too early are both seen.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

#define DEVICE inline
#define OUTLINE inline
#define DYNAMIC_SHARED(name) u8* name = emulator::shared
#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

struct uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct float2 { float x, y; };
struct dim3 { int x, y, z; };
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
using std::max;
using std::min;

namespace emulator {

alignas(128) inline u8 shared[256 << 10];

struct Copy {
  void* target;
  const void* source;
  u32 bytes;
};

struct Barrier {  // lies in the eight bytes of an mbarrier
  u32 phases;
  u32 pending;  // copies of the running phase
};
inline std::vector<std::pair<Barrier*, Copy>> copies;

struct Meeting {  // of the threads of a warp, or of a block
  int expected = 0, arrived = 0;
  u64 generation = 0;
};

struct Fiber {
  ucontext_t context;
  std::vector<u8> stack;
  bool done;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline int running;
inline Meeting warps[32], block;
inline u64 deposited[32][32][4];

inline void yield() { swapcontext(&fibers[running].context, &scheduler); }

inline void meet(Meeting& meeting) {
  const u64 generation = meeting.generation;
  if (++meeting.arrived == meeting.expected) {
    meeting.arrived = 0;
    meeting.generation++;
  } else {
    while (meeting.generation == generation) yield();
  }
}

// What every lane of the warp has, once all are there.
template <typename T>
inline void exchange(const T& mine, T (&all)[32]) {
  static_assert(sizeof(T) <= sizeof deposited[0][0]);
  const int warp = running / 32, lane = running % 32;
  std::memcpy(deposited[warp][lane], &mine, sizeof(T));
  meet(warps[warp]);
  for (int i = 0; i < 32; i++) std::memcpy(&all[i], deposited[warp][i], sizeof(T));
  meet(warps[warp]);
}

}  // namespace emulator

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

inline int lane_id() { return emulator::running & 31; }
inline void __syncwarp() { emulator::meet(emulator::warps[emulator::running / 32]); }
inline void __syncthreads() { emulator::meet(emulator::block); }

template <typename T>
inline T shuffled(T x, int from) {
  T all[32];
  emulator::exchange(x, all);
  return all[from];
}
template <typename T>
inline T __shfl_xor_sync(u32, T x, int mask) { return shuffled(x, lane_id() ^ mask); }
template <typename T>
inline T __shfl_sync(u32, T x, int from) { return shuffled(x, from); }
template <typename T>
inline T __shfl_up_sync(u32, T x, int by) {
  return shuffled(x, lane_id() < by ? lane_id() : lane_id() - by);
}
inline u32 __ballot_sync(u32, bool vote) {
  u32 all[32], votes = 0;
  emulator::exchange<u32>(vote, all);
  for (int i = 0; i < 32; i++) votes |= all[i] << i;
  return votes;
}
inline int __ffs(u32 x) { return __builtin_ffs(x); }
inline float __uint_as_float(u32 bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

inline float half_to_float(u16 bits) {
  _Float16 x;
  std::memcpy(&x, &bits, 2);
  return x;
}
inline u16 float_to_half(float x) {
  const _Float16 half = x;
  u16 bits;
  std::memcpy(&bits, &half, 2);
  return bits;
}
inline u16 float_to_bfloat(float x) {
  u32 bits;
  std::memcpy(&bits, &x, 4);
  return (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline float bfloat_to_float(u16 bits) { return __uint_as_float((u32)bits << 16); }
inline float low_half(u32 pair) { return half_to_float((u16)pair); }
inline float high_half(u32 pair) { return half_to_float((u16)(pair >> 16)); }
inline float low_bfloat(u32 pair) { return bfloat_to_float((u16)pair); }
inline float high_bfloat(u32 pair) { return bfloat_to_float((u16)(pair >> 16)); }
inline u32 pack_half(float low, float high) {
  return float_to_half(low) | (u32)float_to_half(high) << 16;
}
inline u32 pack_bfloat(float low, float high) {
  return float_to_bfloat(low) | (u32)float_to_bfloat(high) << 16;
}
inline u32 multiply_half(u32 x, u32 y) {
  return pack_half(low_half(x) * low_half(y), high_half(x) * high_half(y));
}
inline u32 low_halves(u32 x, u32 y) { return (x & 0xffff) | y << 16; }
inline u32 high_halves(u32 x, u32 y) { return x >> 16 | (y & 0xffff0000u); }
inline float exp2_fast(float x) { return std::exp2(x); }
inline float log2_fast(float x) { return std::log2(x); }

template <float TO_FLOAT(u16)>
inline void mma(float (&d)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1,
                const float (&c)[4]) {
  struct Operands { u32 a[4], b[2]; } all[32];
  emulator::exchange(Operands{{a0, a1, a2, a3}, {b0, b1}}, all);
  const int g = lane_id() >> 2, t = lane_id() & 3;
  for (int i = 0; i < 4; i++) {
    const int row = i / 2, column = 2 * t + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; k++) {
      const Operands& left = all[g * 4 + k % 8 / 2];
      const Operands& right = all[column * 4 + k % 8 / 2];
      const u32 a = left.a[row + k / 8 * 2] >> k % 2 * 16, b = right.b[k / 8] >> k % 2 * 16;
      sum += TO_FLOAT((u16)a) * TO_FLOAT((u16)b);
    }
    d[i] = sum + c[i];
  }
}
#define mma_half mma<half_to_float>
#define mma_bfloat mma<bfloat_to_float>

inline u32 transposed(u32 pair) {
  u32 all[32];
  emulator::exchange(pair, all);
  const int g = lane_id() >> 2, t = lane_id() & 3;
  const u32 low = all[2 * t * 4 + g / 2] >> g % 2 * 16;
  const u32 high = all[(2 * t + 1) * 4 + g / 2] >> g % 2 * 16;
  return (low & 0xffff) | high << 16;
}

inline void barrier_begin(u64* barrier) { std::memset(barrier, 0, sizeof *barrier); }
inline void barriers_visible() {}
inline void copy_bytes(void* target, const void* source, u32 bytes, u64* barrier) {
  std::memset(target, 0xff, bytes);
  auto* b = (emulator::Barrier*)barrier;
  b->pending++;
  emulator::copies.push_back({b, {target, source, bytes}});
}
inline void barrier_wait(u64* barrier, u32 phase) {
  auto* b = (emulator::Barrier*)barrier;
  while (b->phases % 2 == phase) {
    if (!b->pending) {
      emulator::yield();
      continue;
    }
    for (auto& [owner, copy] : emulator::copies)
      if (owner == b) std::memcpy(copy.target, copy.source, copy.bytes);
    std::erase_if(emulator::copies, [&](auto& each) { return each.first == b; });
    b->pending = 0;
    b->phases++;
  }
}
inline void release_next_kernel() {}
inline void await_last_kernel() {}

namespace emulator {

inline std::function<void()> body;

inline void enter() {
  body();
  fibers[running].done = true;
  swapcontext(&fibers[running].context, &scheduler);
}

// Run the blocks of a grid, one after another.
inline void launch(dim3 grid, int threads, std::function<void()> kernel) {
  body = kernel;
  gridDim = grid;
  blockDim = {threads, 1, 1};
  fibers.resize(threads);
  for (int y = 0; y < grid.y; y++)
    for (int x = 0; x < grid.x; x++) {
      blockIdx = {x, y, 0};
      std::memset(shared, 0xff, sizeof shared);
      block = {threads};
      for (int i = 0; i < threads / 32; i++) warps[i] = {32};
      for (Fiber& fiber : fibers) {
        fiber.stack.resize(1 << 18);
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        makecontext(&fiber.context, enter, 0);
      }
      for (int left = threads; left;) {
        left = 0;
        for (running = 0; running < threads; running++)
          if (!fibers[running].done) {
            threadIdx = {running, 0, 0};
            swapcontext(&scheduler, &fibers[running].context);
            left += !fibers[running].done;
          }
      }
    }
}

}  // namespace emulator

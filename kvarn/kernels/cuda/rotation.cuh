// Queries in the rotation of packed tiles, and results out of it.
#pragma once
#include "own.cuh"

// Multiply vectors that lie side by side, COUNT numbers in all, with Hadamard matrices on a diagonal,
// by sums and differences: two stages at a time, because each round waits for the one before. The
// lanes of a warp, or the threads of a block, share the work.
template <int COUNT, typename Wait>
DEVICE void turn(float* vectors, int thread, int threads, Wait wait) {
  int span = 1;
#pragma unroll
  for (; span * 4 <= ROTATION_BLOCK; span *= 4) {
#pragma unroll 4
    for (int i = thread; i < COUNT / 4; i += threads) {
      float* at = vectors + i + (i & -span) * 3;
      const float x0 = at[0], x1 = at[span], x2 = at[2 * span], x3 = at[3 * span];
      const float sum = x0 + x1, difference = x0 - x1, sums = x2 + x3, differences = x2 - x3;
      at[0] = sum + sums, at[2 * span] = sum - sums;
      at[span] = difference + differences, at[3 * span] = difference - differences;
    }
    wait();
  }
  if (span < ROTATION_BLOCK) {
#pragma unroll 4
    for (int i = thread; i < COUNT / 2; i += threads) {
      float* at = vectors + i + (i & -span);
      const float x0 = at[0], x1 = at[span];
      at[0] = x0 + x1, at[span] = x0 - x1;
    }
    wait();
  }
}

// Queries of a group as operands of score_tile, in the memory that held them as floats.
DEVICE void make_query_operands(const Element* queries, i64 head_stride, float* floats) {
  const int lane = lane_id(), g = lane >> 2, t = lane & 3;
  constexpr int THREADS = 32 * PARTNERS, PLANES = Key::COUNT / PARTNERS;
#pragma unroll 8
  for (int i = threadIdx.x; i < GROUP * (HEAD_DIM / 2); i += THREADS) {
    const int row = i / (HEAD_DIM / 2), pair = i % (HEAD_DIM / 2);
    const u32 two = ((const u32*)(queries + row * head_stride))[pair];
    ((float2*)floats)[i] =
        make_float2(low_model(two) * ROTATION_NORM, high_model(two) * ROTATION_NORM);
  }
  meet();
  turn<GROUP * HEAD_DIM>(floats, threadIdx.x, THREADS, [] { meet(); });
  const int first = partner() * PLANES;
  uint2 operands[PLANES][KEY_STEPS];
#pragma unroll
  for (int plane = 0; plane < PLANES; plane++)
#pragma unroll
    for (int step = 0; step < KEY_STEPS; step++) {
      const float* four =
          floats + g * HEAD_DIM + (first + plane) * Key::WORDS + key_word(step, t);
      const bool asked = g < GROUP && key_word_exists(step, t);
      operands[plane][step] = asked ? make_uint2(pack_half(four[0], four[1]),
                                                 pack_half(four[2], four[3]))
                                    : make_uint2(0, 0);
    }
  meet();
#pragma unroll
  for (int plane = 0; plane < PLANES; plane++)
#pragma unroll
    for (int step = 0; step < KEY_STEPS; step++)
      ((uint2*)floats)[((first + plane) * KEY_STEPS + step) * 32 + lane] = operands[plane][step];
  meet();
}

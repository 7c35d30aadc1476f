// Queries in the rotation of packed tiles, and results out of it.
#pragma once
#include "own.cuh"

// Multiply vectors that lie side by side with Hadamard matrices on a diagonal, by sums and
// differences. The lanes of a warp, or the threads of a block, share the work.
template <typename Wait>
DEVICE void turn(float* vectors, int count, int thread, int threads, Wait wait) {
#pragma unroll 1
  for (int span = 1; span < ROTATION_BLOCK; span *= 2) {
    for (int i = thread; i < count / 2; i += threads) {
      const int left = i + (i & -span);
      const float x = vectors[left], y = vectors[left + span];
      vectors[left] = x + y;
      vectors[left + span] = x - y;
    }
    wait();
  }
}

// Queries of a group as operands of score_tile, in the memory that held them as floats.
DEVICE void make_query_operands(const Element* queries, i64 head_stride, int group, float* floats) {
  const int lane = lane_id(), g = lane >> 2, t = lane & 3;
  for (int i = lane; i < group * (HEAD_DIM / 2); i += 32) {
    const int row = i / (HEAD_DIM / 2), pair = i % (HEAD_DIM / 2);
    const u32 two = ((const u32*)(queries + row * head_stride))[pair];
    ((float2*)floats)[i] =
        make_float2(low_model(two) * ROTATION_NORM, high_model(two) * ROTATION_NORM);
  }
  __syncwarp();
  turn(floats, group * HEAD_DIM, lane, 32, [] { __syncwarp(); });
  uint2 operands[Key::COUNT][KEY_STEPS];
#pragma unroll
  for (int plane = 0; plane < Key::COUNT; plane++)
#pragma unroll
    for (int step = 0; step < KEY_STEPS; step++) {
      const float* four = floats + g * HEAD_DIM + plane * Key::WORDS + key_word(step, t);
      const bool asked = g < group && key_word_exists(step, t);
      operands[plane][step] = asked ? make_uint2(pack_half(four[0], four[1]),
                                                 pack_half(four[2], four[3]))
                                    : make_uint2(0, 0);
    }
  __syncwarp();
#pragma unroll
  for (int plane = 0; plane < Key::COUNT; plane++)
#pragma unroll
    for (int step = 0; step < KEY_STEPS; step++)
      ((uint2*)floats)[(plane * KEY_STEPS + step) * 32 + lane] = operands[plane][step];
  __syncwarp();
}

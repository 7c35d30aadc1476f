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

// Queries of a group as operands of score_tile, [plane, step, lane].
constexpr int OPERANDS = Key::COUNT * KEY_STEPS;  // of a lane

// Where one rotation takes in all channels: products rotate over the four bits of a channel's number
// that tell the numbers of a step apart, sums and differences over the bits that tell planes and
// steps apart.
constexpr bool IN_PRODUCTS = ROTATION_BLOCK == HEAD_DIM && Key::WORDS % 16 == 0;

DEVICE void multiply_queries(const Element* queries, i64 head_stride, uint2* operands) {
  const int g = lane_id() >> 2, t = lane_id() & 3;
  const u32 plus = signs(g, 2 * t), minus = plus ^ 0x80008000u;
  const float zero[4] = {};
  uint2 four[OPERANDS];
  float turned[OPERANDS][4];
#pragma unroll
  for (int i = 0; i < OPERANDS; i++) {
    const int channel = i / KEY_STEPS * Key::WORDS + key_word(i % KEY_STEPS, t);
    four[i] = g < GROUP ? *(const uint2*)(queries + g * head_stride + channel) : make_uint2(0, 0);
  }
#pragma unroll
  for (int i = 0; i < OPERANDS; i++)
    mma_model(turned[i], plus, plus, plus, minus, four[i].x, four[i].y, zero);
#pragma unroll
  for (int span = 1; span < OPERANDS; span *= 2)
#pragma unroll
    for (int i = 0; i < OPERANDS * 4; i++) {
      const int upper = i / 4;
      if (upper & span) continue;
      float &x = turned[upper][i % 4], &y = turned[upper + span][i % 4];
      const float sum = x + y, difference = x - y;
      x = sum, y = difference;
    }
#pragma unroll
  for (int i = 0; i < OPERANDS; i++) {
    u32 pairs[2];
#pragma unroll
    for (int half = 0; half < 2; half++)
      pairs[half] = transposed(pack_half(turned[i][2 * half] * ROTATION_NORM,
                                         turned[i][2 * half + 1] * ROTATION_NORM));
    if (i % PARTNERS == partner()) operands[i * 32 + lane_id()] = make_uint2(pairs[0], pairs[1]);
  }
  meet();
}

// Elsewhere: in shared memory, by sums and differences alone.
DEVICE void add_queries(const Element* queries, i64 head_stride, float* floats) {
  const int lane = lane_id(), g = lane >> 2, t = lane & 3;
  constexpr int THREADS = 32 * PARTNERS, MINE = OPERANDS / PARTNERS;
#pragma unroll 8
  for (int i = threadIdx.x; i < GROUP * (HEAD_DIM / 2); i += THREADS) {
    const int row = i / (HEAD_DIM / 2), pair = i % (HEAD_DIM / 2);
    const u32 two = ((const u32*)(queries + row * head_stride))[pair];
    ((float2*)floats)[i] =
        make_float2(low_model(two) * ROTATION_NORM, high_model(two) * ROTATION_NORM);
  }
  meet();
  turn<GROUP * HEAD_DIM>(floats, threadIdx.x, THREADS, [] { meet(); });
  const int first = partner() * MINE;
  uint2 operands[MINE];
#pragma unroll
  for (int i = 0; i < MINE; i++) {
    const int plane = (first + i) / KEY_STEPS, step = (first + i) % KEY_STEPS;
    const float* four = floats + g * HEAD_DIM + plane * Key::WORDS + key_word(step, t);
    operands[i] = g < GROUP && key_word_exists(step, t)
                      ? make_uint2(pack_half(four[0], four[1]), pack_half(four[2], four[3]))
                      : make_uint2(0, 0);
  }
  meet();
#pragma unroll
  for (int i = 0; i < MINE; i++) ((uint2*)floats)[(first + i) * 32 + lane] = operands[i];
  meet();
}

DEVICE void make_query_operands(const Element* queries, i64 head_stride, uint2* operands) {
  if constexpr (IN_PRODUCTS)
    multiply_queries(queries, head_stride, operands);
  else
    add_queries(queries, head_stride, (float*)operands);
}

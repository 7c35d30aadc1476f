// The running softmax of a lane's two columns of scores, in powers of two.
#pragma once
#include <ptx.cuh>

constexpr float LOWEST = -1e30f;  // where a peak begins: finite, so that differences are numbers
constexpr float NOTHING = -3e38f;  // the score of a token that is not there
constexpr float LOG2_E = 1.4426950408889634f;

// Over the lanes that hold the same columns.
DEVICE float largest_of_rows(float x) {
#pragma unroll
  for (int step = 4; step < 32; step *= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
  return x;
}

DEVICE float sum_of_rows(float x) {
#pragma unroll
  for (int step = 4; step < 32; step *= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// A score as a power of two; soft-capped, cap · tanh(score / cap), where there is a cap.
DEVICE float as_exponent(float score, float cap) {
#ifdef SOFT_CAP
  const float fall = exp2_fast(fabsf(score) * (-2.f * LOG2_E / cap));
  return copysignf((1.f - fall) / (1.f + fall) * (cap * LOG2_E), score);
#else
  return score;
#endif
}

struct Softmax {
  float peak[2] = {LOWEST, LOWEST};
  float total[2] = {0.f, 0.f};  // relative to the peak, over all rows

  // Make scores weights. Returns their sums, and what fades the sums so far.
  template <int BLOCKS>
  DEVICE void weigh(float (&scores)[BLOCKS][4], float (&weight)[2], float (&fade)[2]) {
#pragma unroll
    for (int column = 0; column < 2; column++) {
      float highest = scores[0][column];
#pragma unroll
      for (int block = 0; block < BLOCKS; block++)
        highest = fmaxf(highest, fmaxf(scores[block][column], scores[block][column + 2]));
      highest = fmaxf(peak[column], largest_of_rows(highest));
      fade[column] = exp2_fast(peak[column] - highest);
      peak[column] = highest;
      float sum = 0.f;
#pragma unroll
      for (int block = 0; block < BLOCKS; block++) {
        scores[block][column] = exp2_fast(scores[block][column] - highest);
        scores[block][column + 2] = exp2_fast(scores[block][column + 2] - highest);
        sum += scores[block][column] + scores[block][column + 2];
      }
      weight[column] = sum_of_rows(sum);
      total[column] = total[column] * fade[column] + weight[column];
    }
  }
};

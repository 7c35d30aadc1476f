// The quantiser of kvarn/format/reference.py for a tile in shared memory, of which a slab is rotated.
//
// Divisions are products with reciprocals. In units of the step between its lowest and its highest
// code an element is x · inverse + shift, between -1/2 and 1/2 once divided by its token's scale.
// Scales of tokens are those of rows that are not normed.
#pragma once
#include "rows.cuh"

constexpr float SMALLEST = 0x1p-24f, LARGEST = 65504.f;  // of float16
constexpr float LOWEST = -0x1.fffffep127f;
constexpr float ROUND = 0x1.8p23f;  // plus a small number, it has no fraction

// What the width of a code is about.
struct Codes {
  float top;         // the highest code
  float first_step;  // in parts of a channel's reach

  DEVICE float middle() const { return .5f * top; }
  // Codes as floats with ROUND added.
  DEVICE float lifted(float steps, float inverse) const {
    return saturated(steps, inverse, .5f) * top + ROUND;
  }
};

DEVICE float least_squares(float product, float square) {
  return fmaxf(product * reciprocal(fmaxf(square, SMALLEST)), SMALLEST);
}

DEVICE u16 to_half(float x) { return (u16)pack_half(x, 0.f); }
DEVICE float stored(float scale) {
  return half_to_float(to_half(fminf(fmaxf(scale, SMALLEST), LARGEST)));
}

// The thread's channels and group of tokens, where it sums over tokens.
DEVICE int own_quad() { return threadIdx.x % QUADS; }
DEVICE int own_group() { return threadIdx.x / QUADS; }

// Call use(x, token, i) with four channels of each token of the group.
template <typename Use>
DEVICE void each_token(const Shared& shared, Use use) {
#pragma unroll 4
  for (int i = 0; i < GROUP_TOKENS; i++) {
    const int token = own_group() * GROUP_TOKENS + i;
    float x[4];
    load_four(&shared.x[token][4 * own_quad()], x);
    use(x, shared.token[token], i);
  }
}

// Leave what the group has of four channels, for the channels' owners.
template <int COUNT>
DEVICE void leave(Shared& shared, const float (&partial)[COUNT][4]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++)
    store_four(shared.results(i, own_group()) + 4 * own_quad(), partial[i]);
  __syncthreads();
}

DEVICE bool owns_channel() { return threadIdx.x < SLAB; }

DEVICE float total(const Shared& shared, int which) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < GROUPS; i++) sum += shared.results(which, i)[threadIdx.x];
  return sum;
}

DEVICE float highest(const Shared& shared, int which) {
  float most = shared.results(which, 0)[threadIdx.x];
#pragma unroll
  for (int i = 1; i < GROUPS; i++) most = fmaxf(most, shared.results(which, i)[threadIdx.x]);
  return most;
}

DEVICE void set_steps(Shared& shared, const Codes& codes, int channel, float mean, float scale) {
  const float inverse = reciprocal(scale * codes.top);
  shared.inverse[channel] = inverse;
  shared.shift[channel] = -mean * inverse;
  shared.square[channel] = scale * scale;
}

// Sums, and the middles of the ranges, of the slab's channels.
DEVICE void find_middles(Shared& shared, int slab) {
  float partial[3][4] = {{LOWEST, LOWEST, LOWEST, LOWEST}, {LOWEST, LOWEST, LOWEST, LOWEST}};
  each_token(shared, [&](const float(&x)[4], const Token&, int) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      partial[0][i] = fmaxf(partial[0][i], x[i]);
      partial[1][i] = fmaxf(partial[1][i], -x[i]);
      partial[2][i] += x[i];
    }
  });
  leave(shared, partial);
  if (owns_channel()) {
    const int channel = slab * SLAB + threadIdx.x;
    shared.shift[channel] = .5f * (highest(shared, 0) - highest(shared, 1));
    shared.sum[channel] = total(shared, 2);
  }
  __syncthreads();
}

// First means of the slab's channels: their averages, and the middles of the levels about them.
DEVICE void find_means(Shared& shared, int slab) {
  float sum[4], partial[3][4] = {{LOWEST, LOWEST, LOWEST, LOWEST}, {LOWEST, LOWEST, LOWEST, LOWEST}};
  load_four(&shared.sum[slab * SLAB + 4 * own_quad()], sum);
  each_token(shared, [&](const float(&x)[4], const Token& token, int) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float level = (x[i] - sum[i] * (1.f / TILE)) * token.inverse;
      partial[0][i] = fmaxf(partial[0][i], level);
      partial[1][i] = fmaxf(partial[1][i], -level);
      partial[2][i] += token.scale;
    }
  });
  leave(shared, partial);
  if (owns_channel()) {
    const int channel = slab * SLAB + threadIdx.x;
    const float middle = .5f * (highest(shared, 0) - highest(shared, 1));
    shared.shift[channel] = (shared.sum[channel] + middle * total(shared, 2)) * (1.f / TILE);
  }
  __syncthreads();
}

// First scales of the slab's channels.
DEVICE void find_scales(Shared& shared, const Codes& codes, int slab) {
  float mean[4], partial[1][4] = {};
  load_four(&shared.shift[slab * SLAB + 4 * own_quad()], mean);
  each_token(shared, [&](const float(&x)[4], const Token& token, int) {
#pragma unroll
    for (int i = 0; i < 4; i++)
      partial[0][i] = fmaxf(partial[0][i], fabsf((x[i] - mean[i]) * token.inverse));
  });
  leave(shared, partial);
  if (owns_channel()) {
    const int channel = slab * SLAB + threadIdx.x;
    const float scale = fmaxf(highest(shared, 0) * codes.first_step, SMALLEST);
    set_steps(shared, codes, channel, shared.shift[channel], scale);
  }
  __syncthreads();
}

// Means and scales of the slab's channels that bring the codes nearest, once the tokens are fitted.
// With LAST, scales are those that float16 has; the channel's owner gets its.
DEVICE float fit_channels(Shared& shared, const Codes& codes, int slab, bool last) {
  float inverse[4], shift[4], partial[3][4] = {};
  const float middle = codes.middle();
  load_four(&shared.inverse[slab * SLAB + 4 * own_quad()], inverse);
  load_four(&shared.shift[slab * SLAB + 4 * own_quad()], shift);
  each_token(shared, [&](const float(&x)[4], const Token& token, int) {
    const float lowest = -middle * token.scale;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float steps = x[i] * inverse[i] + shift[i];
      const float shape = (codes.lifted(steps, token.inverse) - ROUND) * token.scale + lowest;
      partial[0][i] += steps * shape;
      partial[1][i] += shape * shape;
      partial[2][i] += shape;
    }
  });
  leave(shared, partial);
  float scale = 0.f;
  if (owns_channel()) {
    const int channel = slab * SLAB + threadIdx.x;
    const float product = total(shared, 0) * reciprocal(shared.inverse[channel]);
    scale = least_squares(product, total(shared, 1));
    const float mean = (shared.sum[channel] - scale * total(shared, 2)) * (1.f / TILE);
    if (last) scale = stored(scale);
    set_steps(shared, codes, channel, mean, scale);
  }
  __syncthreads();
  return scale;
}

// Codes of the slab as they are stored; the owner of a channel gets the mean for them.
DEVICE float store_codes(Shared& shared, const Codes& codes, int slab, float scale) {
  float inverse[4], shift[4], partial[1][4] = {}, tokens = 0.f;
  load_four(&shared.inverse[slab * SLAB + 4 * own_quad()], inverse);
  load_four(&shared.shift[slab * SLAB + 4 * own_quad()], shift);
  u32 words[4];
  each_token(shared, [&](const float(&x)[4], const Token& token, int t) {
    tokens += token.stored_scale;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float lifted = codes.lifted(x[i] * inverse[i] + shift[i], token.stored_inverse);
      partial[0][i] += (lifted - ROUND) * token.stored_scale;
      words[i] = bytes_of(words[i], bits_of(lifted), 0x4321);
      if (t % 4 == 3)
        shared.codes_at(slab * SLAB + 4 * own_quad() + i,
                        own_group() * (GROUP_TOKENS / 4) + t / 4) = words[i];
    }
  });
#pragma unroll
  for (int i = 0; i < 4; i++) partial[0][i] -= codes.middle() * tokens;
  leave(shared, partial);
  if (!owns_channel()) return 0.f;
  return (shared.sum[slab * SLAB + threadIdx.x] - scale * total(shared, 0)) * (1.f / TILE);
}

// Two tokens of a thread, where it sums over channels, and sums of theirs.
struct TokenSums {
  float product[2] = {}, square[2] = {};

  DEVICE static int part() { return threadIdx.x % PARTS; }
  DEVICE static int token(int i) { return threadIdx.x / PARTS + i * (TILE / 2); }
  DEVICE static bool exists() { return threadIdx.x < PARTS * (TILE / 2); }

  // The sums of all threads that share the tokens, which become zero.
  DEVICE void take(float (&products)[2], float (&squares)[2]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      products[i] = product[i], squares[i] = square[i], product[i] = square[i] = 0.f;
#pragma unroll
      for (int step = 1; step < PARTS; step *= 2) {
        products[i] += __shfl_xor_sync(0xffffffffu, products[i], step);
        squares[i] += __shfl_xor_sync(0xffffffffu, squares[i], step);
      }
    }
  }

  // Add squared deviations from the middles of the slab's channels.
  DEVICE void add_deviations(const Shared& shared, int slab) {
    if (!exists()) return;
#pragma unroll 2
    for (int quad = part(); quad < QUADS; quad += PARTS) {
      float middle[4], x[4];
      load_four(&shared.shift[slab * SLAB + 4 * quad], middle);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        load_four(&shared.x[token(i)][4 * quad], x);
#pragma unroll
        for (int j = 0; j < 4; j++) square[i] += (x[j] - middle[j]) * (x[j] - middle[j]);
      }
    }
  }

  // Add what the tokens' scales are fitted by; products are in steps.
  DEVICE void add_slab(const Shared& shared, const Codes& codes, const float (&inverse)[2],
                       int slab) {
    if (!exists()) return;
    const float middle = codes.middle();
#pragma unroll 2
    for (int quad = part(); quad < QUADS; quad += PARTS) {
      float channel_inverse[4], shift[4], channel_square[4], x[4];
      load_four(&shared.inverse[slab * SLAB + 4 * quad], channel_inverse);
      load_four(&shared.shift[slab * SLAB + 4 * quad], shift);
      load_four(&shared.square[slab * SLAB + 4 * quad], channel_square);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        load_four(&shared.x[token(i)][4 * quad], x);
#pragma unroll
        for (int j = 0; j < 4; j++) {
          const float steps = x[j] * channel_inverse[j] + shift[j];
          const float code = codes.lifted(steps, inverse[i]) - ROUND - middle;
          const float shape = code * channel_square[j];
          product[i] += steps * shape;
          square[i] += code * shape;
        }
      }
    }
  }
};

// Scales of the thread's two tokens.
struct TokenScales {
  float scale[2], inverse[2];

  // Let all threads have them; with `fitted`, codes are still made with the scales from before.
  DEVICE void set(Shared& shared, const float (&next)[2], bool fitted) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const float norm = stored(next[i] * ROTATION_NORM) * (1.f / ROTATION_NORM);
      const float next_inverse = reciprocal(next[i]);
      if (TokenSums::exists() && TokenSums::part() == 0)
        shared.token[TokenSums::token(i)] = {fitted ? inverse[i] : next_inverse, next[i],
                                             reciprocal(norm), norm};
      scale[i] = next[i], inverse[i] = next_inverse;
    }
    __syncthreads();
  }
};

// Rows of a tile as the model made them, rotated into shared memory but for the rotation's norm.
//
// Tensor cores turn 16 channels at a time, exactly but for the sums; sums and differences in
// registers do the rest of up to 128 channels. Of larger Hadamard matrices each quarter or half of
// the result adds up all products, some of them with the opposite signs.
#pragma once
#include "slab.cuh"

// Channels of a result.
constexpr int TURNED = SLAB <= 128 ? SLAB : ROTATION_BLOCK < 128 ? ROTATION_BLOCK : 128;
constexpr int TERMS = ROTATION_BLOCK > TURNED ? ROTATION_BLOCK / TURNED : 1;
constexpr int CHUNKS = TURNED / 16;

// Where rows of a tile are: before `first` in the tail, keys beside values; the others in the step.
struct OldAndNew {
  const Element* old_rows;
  const Element* new_rows;  // where row 0 would be
  i64 new_stride;
  int first;

  DEVICE const Element* at(int row) const {
    return row < first ? old_rows + row * (2 * HEAD_DIM) : new_rows + row * new_stride;
  }
};

// Elements of rows g and g + 8 of 16: channels 4t to 4t + 3 of each chunk.
struct RowChunks {
  uint2 upper[CHUNKS], lower[CHUNKS];

  // Returns how many elements are not finite; they become zero.
  DEVICE int load(const Element* above, const Element* below) {
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
      // Not from the L1: what it holds may be older than what another kernel has waited for.
      upper[i] = __ldcg((const uint2*)above + 4 * i);
      lower[i] = __ldcg((const uint2*)below + 4 * i);
    }
    u32 zeros[2] = {};  // or NaN, where something is not finite
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
      zeros[0] = multiply_add_model(upper[i].x, 0, zeros[0]);
      zeros[1] = multiply_add_model(upper[i].y, 0, zeros[1]);
      zeros[0] = multiply_add_model(lower[i].x, 0, zeros[0]);
      zeros[1] = multiply_add_model(lower[i].y, 0, zeros[1]);
    }
    int faults = 0;
    if ((zeros[0] | zeros[1]) & 0x7fff7fff)
#pragma unroll
      for (int i = 0; i < CHUNKS; i++)
        faults += clean(upper[i].x) + clean(upper[i].y) + clean(lower[i].x) + clean(lower[i].y);
    return faults;
  }
};

// Results: channels 4t to 4t + 3 of each chunk, of rows g and g + 8.
typedef float Turned[CHUNKS][2][4];

DEVICE void add_turned(const RowChunks& rows, const u32 (&matrix)[2][2], u32 flip, Turned& sums) {
#pragma unroll
  for (int i = 0; i < CHUNKS; i++)
#pragma unroll
    for (int half = 0; half < 2; half++)
      mma_model(sums[i][half], rows.upper[i].x, rows.lower[i].x, rows.upper[i].y, rows.lower[i].y,
                matrix[half][0] ^ flip, matrix[half][1] ^ flip, sums[i][half]);
}

DEVICE void turn_chunks(Turned& sums) {
#pragma unroll
  for (int span = 1; 16 * span < ROTATION_BLOCK && span < CHUNKS; span *= 2)
#pragma unroll
    for (int i = 0; i < CHUNKS; i++)
      if ((i & span) == 0)
#pragma unroll
        for (int j = 0; j < 8; j++) {
          const float x = sums[i][j / 4][j % 4], y = sums[i + span][j / 4][j % 4];
          sums[i][j / 4][j % 4] = x + y, sums[i + span][j / 4][j % 4] = x - y;
        }
}

// A slab's channels; numbers that are not finite count as zero, and are counted if `faults` is there
// to count them.
DEVICE void load_slab(Shared& shared, const OldAndNew& rows, int slab, u64* faults) {
  const int lane = lane_id(), g = lane >> 2, t = lane & 3;
  // Columns 2t, 2t + 1 of the two halves of a product are channels 4t to 4t + 3.
  u32 matrix[2][2];
#pragma unroll
  for (int i = 0; i < 4; i++)
    matrix[i / 2][i % 2] = signs(g / 2 * 4 + i / 2 * 2 + g % 2, t * 4 + i % 2 * 2);
  __syncthreads();
#pragma unroll 1
  for (int unit = threadIdx.x / 32; unit < GROUPS * (SLAB / TURNED); unit += WARPS) {
    const int row = unit % GROUPS * 16 + g, part = slab * (SLAB / TURNED) + unit / GROUPS;
    const int first = part / TERMS * TERMS * TURNED + 4 * t;
    Turned sums = {};
#pragma unroll 1
    for (int term = 0; term < TERMS; term++) {
      RowChunks chunks;
      const int channel = first + term * TURNED;
      const int bad = chunks.load(rows.at(row) + channel, rows.at(row + 8) + channel);
      if (bad && faults && part % TERMS == 0) atomicAdd(faults, (u64)bad);
      add_turned(chunks, matrix, __popc(term & part % TERMS) % 2 * 0x80008000u, sums);
    }
    turn_chunks(sums);
    float* at = &shared.x[row][unit / GROUPS * TURNED + 4 * t];
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
      const float(&left)[4] = sums[i][0], (&right)[4] = sums[i][1];
      store_four(at + 16 * i, {left[0], left[1], right[0], right[1]});
      store_four(at + 16 * i + 8 * ROW, {left[2], left[3], right[2], right[3]});
    }
  }
  __syncthreads();
}

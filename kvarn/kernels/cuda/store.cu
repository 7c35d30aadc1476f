// Complete tiles, from the model's keys and values straight into their pages.
//
// A block stores the keys or the values of one tile and KV head: rows from before this step come
// from the sequence's tail page, the others from the step's tokens.
//
// After attention in a step of single tokens, of which none reads a tile that the step completes, it
// begins as soon as a multiprocessor has room, while others still attend.
#include "quantise.cuh"
#include "words.cuh"

struct Arguments {
  Rows rows[2];  // keys, values
  Pages tail, packed;
  Segments segments;
  u64* faults;  // or null
  int beside;   // attention of the same step is the kernel before
};

// Offsets in a tile.
struct Places {
  int codes, token_scale, channel_scale, mean;
};

// Quantise the rows into codes in shared memory, scales and means in the tile.
DEVICE void quantise(Shared& shared, const OldAndNew& rows, const Codes& codes, u8* tile,
                     const Places& places, u64* faults) {
  TokenSums sums;
  TokenScales tokens;
  float products[2], squares[2];
#pragma unroll 1
  for (int slab = 0; slab < SLABS; slab++) {
    load_slab(shared, rows, slab, faults);
    find_middles(shared, slab);
    sums.add_deviations(shared, slab);
  }
  sums.take(products, squares);
#pragma unroll
  for (int i = 0; i < 2; i++)
    squares[i] = fmaxf(sqrtf(squares[i] * (1.f / HEAD_DIM)), SMALLEST);
  tokens.set(shared, squares, false);

#pragma unroll 1
  for (int slab = 0; slab < SLABS; slab++) {
    if (SLABS > 1) load_slab(shared, rows, slab, nullptr);
    find_means(shared, slab);
    find_scales(shared, codes, slab);
    sums.add_slab(shared, codes, tokens.inverse, slab);
  }
#pragma unroll 1
  for (int pass = 0; pass < PASSES; pass++) {
    sums.take(products, squares);
#pragma unroll
    for (int i = 0; i < 2; i++) products[i] = least_squares(products[i] * codes.top, squares[i]);
    tokens.set(shared, products, true);
    const bool last = pass + 1 == PASSES;
#pragma unroll 1
    for (int slab = 0; slab < SLABS; slab++) {
      if (SLABS > 1) load_slab(shared, rows, slab, nullptr);
      const float scale = fit_channels(shared, codes, slab, last);
      if (!last) {
        sums.add_slab(shared, codes, tokens.inverse, slab);
        continue;
      }
      const float mean = store_codes(shared, codes, slab, scale) * ROTATION_NORM;
      if (owns_channel()) {
        const int channel = slab * SLAB + threadIdx.x;
        ((u16*)(tile + places.channel_scale))[channel] = to_half(scale);
        ((u16*)(tile + places.mean))[channel] = to_half(fminf(fmaxf(mean, -LARGEST), LARGEST));
      }
    }
  }
  if (threadIdx.x < TILE)
    ((u16*)(tile + places.token_scale))[threadIdx.x] =
        to_half(shared.token[threadIdx.x].stored_scale * ROTATION_NORM);
}

// A segment's keys, or its values, of a head.
DEVICE void store_segment(const Arguments& the, Shared& shared, int index, int head, bool values) {
  const Segments& segments = the.segments;
  const Segment segment = segments.at(index);
  const i64 page = segments.page(segment);
  if (page == NULL_PAGE) return;
  const Rows& step = the.rows[values];
  const OldAndNew rows = {
      (const Element*)the.tail.at(segments.tail(segment.sequence), head) + values * HEAD_DIM,
      step.pointer + segment.origin * step.token_stride + head * step.head_stride,
      step.token_stride, segment.first};
  u8* tile = the.packed.at(page, head);
  const Codes codes = values ? Codes{(1 << VALUE_BITS) - 1, VALUE_STEP}
                             : Codes{(1 << KEY_BITS) - 1, KEY_STEP};
  const Places places =
      values ? Places{VALUE_CODES, VALUE_TOKEN_SCALE, VALUE_CHANNEL_SCALE, VALUE_MEAN}
             : Places{KEY_CODES, KEY_TOKEN_SCALE, KEY_CHANNEL_SCALE, KEY_MEAN};
  quantise(shared, rows, codes, tile, places, the.faults);
  if (values)
    pack_values(shared, (u16*)(tile + places.codes));
  else
    pack_keys(shared, (u16*)(tile + places.codes));
}

// The grid is (·, keys and values of heads). A block looks after up to 32 segments, of which few
// complete a tile in a step of single tokens.
extern "C" __global__ void __launch_bounds__(THREADS, RESIDENT)
store(const __grid_constant__ Arguments the) {
  DYNAMIC_SHARED(memory);
  Shared& shared = *(Shared*)memory;
  if (!the.beside) await_last_kernel();
  release_next_kernel();
  const int mine = blockIdx.x + lane_id() * gridDim.x;
  const Segment segment = the.segments.at(mine);
  const bool closes = segment.first < segment.end && segment.end == TILE;
  u32 votes = __ballot_sync(0xffffffffu, closes);
#pragma unroll 1
  while (votes) {
    const int lane = __ffs(votes) - 1;
    votes &= votes - 1;
    store_segment(the, shared, blockIdx.x + lane * gridDim.x, blockIdx.y / 2, blockIdx.y % 2);
  }
  // Whoever waits for the end of this kernel waits for that of attention.
  if (the.beside && blockIdx.x + blockIdx.y == 0) await_last_kernel();
}

// Attention of single new tokens over packed history and own tiles: `attend` makes partial results,
// `combine` joins them.
//
// A program of `attend` is one warp with a whole tile in shared memory. It waits for no other, and
// its next tile is on the way while it computes: half of a tile is loaded as soon as it was read.
#include "rotation.cuh"
#include "schedule.cuh"
#include "values.cuh"

struct Rows {
  Element* pointer;
  i64 token_stride;
  i64 head_stride;

  DEVICE Element* at(i64 token, int head) const {
    return pointer + token * token_stride + head * head_stride;
  }
};

struct Pages {
  const u8* pointer;
  i64 page_stride;  // in bytes, as that of heads
  i64 head_stride;

  DEVICE const u8* at(i64 page, int head) const {
    return pointer + page * page_stride + head * head_stride;
  }
};

// Results of runs: sums [runs, group, D], relative to the total, which is two to the exponent.
struct Partial {
  float* sums;
  float* exponents;
  Join* joins;  // [segments, heads]
};

struct Arguments {
  Rows query, keys, values;
  Pages tail, packed;
  Segments segments;
  Partial partial;
  Rows out;
  int heads;
  float factor;  // of the scores: with log2(e) in it where no cap follows
  float cap;
  int warps;     // of `attend`
};

constexpr int KEY_BYTES = VALUE_CODES, VALUE_BYTES = TILE_BYTES - VALUE_CODES;
static_assert(KEY_BYTES % 16 == 0 && VALUE_BYTES % 16 == 0, "copies are of 16 bytes");

struct Shared {
  u8 keys[KEY_BYTES];
  u8 values[VALUE_BYTES];
  float query[COLUMNS * HEAD_DIM];
  u64 loaded[2];  // barriers of the keys and of the values
};
static_assert(sizeof(Shared) == SHARED_BYTES, "what a program asks for");

DEVICE void store_pair(float* sums, int column, float low, float high) {
  if (column < GROUP) *(float2*)(sums + column * HEAD_DIM) = make_float2(low, high);
}

DEVICE void store_exponents(const Softmax& softmax, float* exponents) {
  const int lane = lane_id();
#pragma unroll
  for (int i = 0; i < 2; i++)
    if (lane < 4 && 2 * lane + i < GROUP)
      exponents[2 * lane + i] = softmax.peak[i] + log2_fast(softmax.total[i]);
}

// Packed tiles begin to end of a sequence; `phase` is that of the barriers.
DEVICE void run_packed(const Arguments& the, Shared& shared, const Work& work, int head, int begin,
                       int end, i64 run, u32& phase) {
  const int lane = lane_id();
  const int* pages = the.segments.table + work.sequence * the.segments.table_stride;
  if (lane == 0) {
    const u8* tile = the.packed.at(pages[begin], head);
    copy_bytes(shared.keys, tile, KEY_BYTES, &shared.loaded[0]);
    copy_bytes(shared.values, tile + KEY_BYTES, VALUE_BYTES, &shared.loaded[1]);
  }
  make_query_operands(the.query.at(work.token, head * GROUP), the.query.head_stride, shared.query);
  Softmax softmax;
  PackedSums sums = {};
#pragma unroll 1
  for (int tile = begin; tile < end; tile++) {
    const bool loads = lane == 0 && tile + 1 < end;
    const u8* next = loads ? the.packed.at(pages[tile + 1], head) : nullptr;
    barrier_wait(&shared.loaded[0], phase);
    float scores[8][4];
    score_tile(shared.keys, (const uint2*)shared.query, the.factor, scores);
    __syncwarp();
    if (loads) copy_bytes(shared.keys, next, KEY_BYTES, &shared.loaded[0]);
#ifdef SOFT_CAP
#pragma unroll
    for (int i = 0; i < 32; i++) scores[i / 4][i % 4] = as_exponent(scores[i / 4][i % 4], the.cap);
#endif
    float weight[2], fade[2];
    softmax.weigh(scores, weight, fade);
    barrier_wait(&shared.loaded[1], phase);
    add_tile(shared.values, scores, weight, fade, sums);
    __syncwarp();
    if (loads) copy_bytes(shared.values, next + KEY_BYTES, VALUE_BYTES, &shared.loaded[1]);
    phase ^= 1;
  }
  const float scale[2] = {1.f / softmax.total[0], 1.f / softmax.total[1]};
  float* at = the.partial.sums + run * GROUP * HEAD_DIM;
#pragma unroll
  for (int plane = 0; plane < Value::COUNT; plane++)
#pragma unroll
    for (int block = 0; block < VALUE_BLOCKS; block++)
      if (value_word_exists(block))
#pragma unroll
        for (int i = 0; i < 2; i++)
          store_pair(at + plane * Value::WORDS + value_word(block), 2 * (lane & 3) + i,
                     sums[plane][block][i] * scale[i],
                     sums[plane][block][i + 2] * scale[i]);
  store_exponents(softmax, the.partial.exponents + run * GROUP);
}

// Slabs begin to end of a sequence's own tile.
DEVICE void run_own(const Arguments& the, const Work& work, int head, int begin, int end, i64 run) {
  const int lane = lane_id(), g = lane >> 2;
  const i64 page = the.segments.tail_page[work.sequence * the.segments.tail_stride];
  const Element* tail = (const Element*)the.tail.at(page, head);
  const OwnRows keys = {tail, the.keys.at(work.token, head), work.rows - 1};
  const OwnRows values = {tail + HEAD_DIM, the.values.at(work.token, head), work.rows - 1};
  const bool asked = g < GROUP;
  const Element* query = the.query.at(work.token, head * GROUP + (asked ? g : 0));
  Softmax softmax;
  OwnSums sums = {};
  attend_slabs(query, asked, keys, values, begin, end, work.rows, the.factor, the.cap, softmax,
               sums);
  const float scale[2] = {1.f / softmax.total[0], 1.f / softmax.total[1]};
  float* at = the.partial.sums + run * GROUP * HEAD_DIM + g * (HEAD_DIM / 8);
#pragma unroll
  for (int block = 0; block < OWN_BLOCKS; block++)
#pragma unroll
    for (int i = 0; i < 2; i++)
      store_pair(at + 2 * block, 2 * (lane & 3) + i, sums[block][i] * scale[i],
                 sums[block][i + 2] * scale[i]);
  store_exponents(softmax, the.partial.exponents + run * GROUP);
}

// The grid is (warps), of one warp each.
extern "C" __global__ void __launch_bounds__(32, RESIDENT)
attend(const __grid_constant__ Arguments the) {
  DYNAMIC_SHARED(memory);
  Shared& shared = *(Shared*)memory;
  release_next_kernel();
  if (lane_id() == 0) {
    barrier_begin(&shared.loaded[0]);
    barrier_begin(&shared.loaded[1]);
    barriers_visible();
  }
  __syncwarp();
  const Segments& segments = the.segments;
  const Line line((i64)the.heads * segments.units_before(segments.count), the.warps);
  const int piece = blockIdx.x;
  if (piece >= line.pieces) return;
  i64 place = line.begin(piece);
  const i64 end = line.begin(piece + 1);
  int before;
  int segment = segment_at(segments, (int)(place / the.heads), before);
  u32 phase = 0;
#pragma unroll 1
  while (place < end) {
    const Work work = segments.work(segment);
    const int units_here = work.units();
    const i64 first = (i64)before * the.heads;
    if (place == first + (i64)units_here * the.heads) {
      before += units_here;
      segment++;
      continue;
    }
    const int head = (int)((place - first) / units_here);
    const int unit = (int)((place - first) % units_here);
    const bool own = unit >= work.tiles;
    if (unit == 0 && lane_id() == 0)
      the.partial.joins[segment * the.heads + head] =
          join_of(line, place, work, segment, head, the.heads);
    const int last = own ? units_here : work.tiles;
    const int stop = (int)min((i64)last, unit + (end - place));
    const i64 run = run_index(piece, segment, head, the.heads, own);
    if (own)
      run_own(the, work, head, unit - work.tiles, stop - work.tiles, run);
    else
      run_packed(the, shared, work, head, unit, stop, run, phase);
    place += stop - unit;
  }
}

constexpr int MOST_JOINERS = 8;  // warps that join the runs of a query
constexpr int LANE_PAIRS = (HEAD_DIM / 2 + 31) / 32;

// A warp's share of sums, of neighbouring channels each.
typedef float2 Share[LANE_PAIRS];

// Add a warp's share of some runs, weighed against the peak of all; returns its weight.
DEVICE float add_runs(const Partial& partial, const Runs& runs, int column, float peak,
                      Share& sums) {
  float total = 0.f;
#pragma unroll 4
  for (int i = threadIdx.x / 32; i < runs.count; i += blockDim.x / 32) {
    const i64 row = (i64)(runs.first + i) * GROUP + column;
    const float weight = exp2_fast(partial.exponents[row] - peak);
    const float2* pairs = (const float2*)(partial.sums + row * HEAD_DIM);
#pragma unroll
    for (int j = 0; j < LANE_PAIRS; j++) {
      const int pair = lane_id() + 32 * j;
      if (pair >= HEAD_DIM / 2) continue;
      const float2 two = pairs[pair];
      sums[j].x += weight * two.x, sums[j].y += weight * two.y;
    }
    total += weight;
  }
  return total;
}

DEVICE float highest_of(const Partial& partial, const Runs& runs, int column, float highest) {
  for (int i = lane_id(); i < runs.count; i += 32)
    highest = fmaxf(highest, partial.exponents[(i64)(runs.first + i) * GROUP + column]);
  return highest;
}

DEVICE void store_share(const Share& sums, float* channels) {
#pragma unroll
  for (int j = 0; j < LANE_PAIRS; j++)
    if (lane_id() + 32 * j < HEAD_DIM / 2) ((float2*)channels)[lane_id() + 32 * j] = sums[j];
}

// The grid is (query heads, segments), of as many warps as share the runs of each.
extern "C" __global__ void combine(const __grid_constant__ Arguments the) {
  __shared__ float history[MOST_JOINERS][HEAD_DIM], own[MOST_JOINERS][HEAD_DIM];
  __shared__ float totals[MOST_JOINERS];
  const int segment = blockIdx.y, column = blockIdx.x % GROUP, head = blockIdx.x / GROUP;
  const Work work = the.segments.work(segment);
  if (work.rows == 0) return;
  await_last_kernel();

  const Partial& partial = the.partial;
  const Join join = partial.joins[segment * the.heads + head];
  float peak = highest_of(partial, join.own, column, LOWEST);
  peak = highest_of(partial, join.packed, column, peak);
#pragma unroll
  for (int step = 1; step < 32; step *= 2)
    peak = fmaxf(peak, __shfl_xor_sync(0xffffffffu, peak, step));
  Share sums = {}, own_sums = {};
  const float total = add_runs(partial, join.packed, column, peak, sums) +
                      add_runs(partial, join.own, column, peak, own_sums);
  const int warp = threadIdx.x / 32, joiners = blockDim.x / 32;
  store_share(sums, history[warp]);
  store_share(own_sums, own[warp]);
  if (lane_id() == 0) totals[warp] = total;
  __syncthreads();
  for (int channel = threadIdx.x; channel < HEAD_DIM; channel += blockDim.x)
    for (int i = 1; i < joiners; i++) {
      history[0][channel] += history[i][channel];
      own[0][channel] += own[i][channel];
    }
  float weight = 0.f;
  for (int i = 0; i < joiners; i++) weight += totals[i];
  __syncthreads();
  turn<HEAD_DIM>(history[0], threadIdx.x, blockDim.x, [] { __syncthreads(); });
  u32* out = (u32*)the.out.at(work.token, blockIdx.x);
  for (int pair = threadIdx.x; pair < HEAD_DIM / 2; pair += blockDim.x) {
    const float2 turned = ((const float2*)history[0])[pair], raw = ((const float2*)own[0])[pair];
    out[pair] = pack_model((turned.x * ROTATION_NORM + raw.x) / weight,
                           (turned.y * ROTATION_NORM + raw.y) / weight);
  }
}

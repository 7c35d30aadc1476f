// Attention of single new tokens over packed history and own tiles: `attend` makes partial results,
// `combine` joins them, and keeps the tokens in the tails. Each may begin while the kernel before it
// ends: until then it reads of the batch what no kernel writes.
//
// A program of `attend` is one warp, or two, with a whole tile in shared memory. It waits for no
// other, and its next tile is on the way while it computes: half of a tile is loaded as soon as it
// was read.
#include "rotation.cuh"
#include "schedule.cuh"
#include "values.cuh"

// Results of runs, one of each partner: sums [·, group, D], relative to the total, which is two to the exponent.
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
  int heads;    // groups of queries, of which a KV head may have several
  int sharing;  // groups of a KV head
  float factor;  // of the scores: with log2(e) in it where no cap follows
  float cap;
  int programs;  // of `attend`
  int joiners;  // warps of `combine` that share a query
};

constexpr int KEY_BYTES = VALUE_CODES, VALUE_BYTES = TILE_BYTES - VALUE_CODES;
static_assert(KEY_BYTES % 16 == 0 && VALUE_BYTES % 16 == 0, "copies are of 16 bytes");

struct Shared {
  u8 keys[KEY_BYTES];
  u8 values[VALUE_BYTES];
  uint2 query[QUERY_OPERANDS > GROUP * HEAD_DIM / 2 ? QUERY_OPERANDS : GROUP * HEAD_DIM / 2];
  u64 loaded[2];  // barriers of the keys and of the values
};
static_assert(sizeof(Shared) == SHARED_BYTES, "what a program asks for");

// Store a run's result by `store`, which puts away one of the lane's two columns.
template <typename Store>
DEVICE void store_run(const Partial& partial, i64 run, const Softmax& softmax, Store store) {
#pragma unroll
  for (int i = 0; i < 2; i++) {
    const int column = 2 * (lane_id() & 3) + i;
    if (column >= GROUP) continue;
    const i64 row = (run * PARTNERS + partner()) * GROUP + column;
    const bool any = softmax.total[i] > 0.f;  // partners may find nothing to do
    store(i, any ? 1.f / softmax.total[i] : 0.f, partial.sums + row * HEAD_DIM);
    if (lane_id() < 4)
      partial.exponents[row] = softmax.peak[i] + log2_fast(softmax.total[i]);
  }
}

DEVICE const u8* tile_at(const Arguments& the, const Position& place, int unit) {
  const int page = the.segments.table[place.work.sequence * the.segments.table_stride + unit];
  return the.packed.at(page, place.head / the.sharing);
}

DEVICE void load_keys(Shared& shared, const u8* tile) {
  if (tile && threadIdx.x == 0) copy_bytes(shared.keys, tile, KEY_BYTES, &shared.loaded[0]);
}

DEVICE void load_values(Shared& shared, const u8* tile) {
  if (tile && threadIdx.x == 0)
    copy_bytes(shared.values, tile + KEY_BYTES, VALUE_BYTES, &shared.loaded[1]);
}

// The next packed tile of the piece from a place on, or null. A function of its own, because the
// loop that asks has no registers to spare.
OUTLINE const u8* next_tile(const Arguments& the, Position place) {
  while (place.left && place.is_own()) place.skip(the.segments, the.heads, place.run());
  return place.left ? tile_at(the, place, place.unit) : nullptr;
}

// The first of the piece after a run of packed tiles.
DEVICE const u8* tile_after(const Arguments& the, Position place) {
  place.skip(the.segments, the.heads, place.run());
  return next_tile(the, place);
}

// So many packed tiles, the first of which is on the way. `phase` is that of the barriers.
DEVICE void run_packed(const Arguments& the, Shared& shared, const Position& here, int tiles,
                       i64 run, u32& phase) {
  make_query_operands(the.query.at(here.work.token, here.head * GROUP), the.query.head_stride,
                      shared.query);
  Softmax softmax;
  PackedSums sums = {};
#pragma unroll 1
  for (int tile = 1; tile <= tiles; tile++) {
    const u8* next = tile < tiles ? tile_at(the, here, here.unit + tile) : tile_after(the, here);
    barrier_wait(&shared.loaded[0], phase);
    float scores[TOKEN_BLOCKS][4];
    score_tile(shared.keys, shared.query, the.factor, scores);
    meet();
    load_keys(shared, next);
#ifdef SOFT_CAP
#pragma unroll
    for (int i = 0; i < TOKEN_BLOCKS * 4; i++) scores[i / 4][i % 4] = as_exponent(scores[i / 4][i % 4], the.cap);
#endif
    float weight[2], fade[2];
    softmax.weigh(scores, weight, fade);
    barrier_wait(&shared.loaded[1], phase);
    add_tile(shared.values, scores, weight, fade, sums);
    meet();
    load_values(shared, next);
    phase ^= 1;
  }
  store_run(the.partial, run, softmax, [&](int column, float scale, float* channels) {
    store_packed(sums, column, scale, channels);
  });
}

// So many slabs of the own tile.
DEVICE void run_own(const Arguments& the, const Position& here, int slabs, i64 run) {
  const Work& work = here.work;
  const int g = lane_id() >> 2, kv_head = here.head / the.sharing;
  const i64 page = the.segments.tail(work.sequence);
  const Element* tail = (const Element*)the.tail.at(page, kv_head);
  const OwnRows keys = {tail, the.keys.at(work.token, kv_head), work.rows - 1};
  const OwnRows values = {tail + HEAD_DIM, the.values.at(work.token, kv_head), work.rows - 1};
  const bool asked = g < GROUP;
  const Element* query = the.query.at(work.token, here.head * GROUP + (asked ? g : 0));
  Softmax softmax;
  OwnSums sums = {};
  const int begin = here.unit - work.tiles;
  attend_slabs(query, asked, keys, values, begin, begin + slabs, work.rows, the.factor, the.cap,
               softmax, sums);
  store_run(the.partial, run, softmax, [&](int column, float scale, float* channels) {
    store_own(sums, column, scale, channels);
  });
}

// The grid is (programs), of PARTNERS warps each.
extern "C" __global__ void __launch_bounds__(32 * PARTNERS, RESIDENT)
attend(const __grid_constant__ Arguments the) {
  DYNAMIC_SHARED(memory);
  Shared& shared = *(Shared*)memory;
  if (threadIdx.x == 0) {
    barrier_begin(&shared.loaded[0]);
    barrier_begin(&shared.loaded[1]);
    barriers_visible();
  }
  meet();
  int before;
  const Line line((i64)the.heads * units_of(the.segments, 0, before), the.programs);
  const bool tells = the.segments.count > FEW_SEGMENTS;
  const int piece = blockIdx.x;
  if (piece >= line.pieces) return;
  Position here = position(the.segments, line, piece, the.heads);
  const u8* first = next_tile(the, here);
  await_last_kernel();
  release_next_kernel();
  load_keys(shared, first);
  load_values(shared, first);
  u32 phase = 0;
#pragma unroll 1
  while (here.left) {
    const int length = here.run();
    const i64 run = run_index(piece, here.segment, here.head, the.heads, here.is_own());
    if (tells && here.unit == 0 && threadIdx.x == 0)
      the.partial.joins[here.segment * the.heads + here.head] = join_of(
          line, line.begin(piece + 1) - here.left, here.work, here.segment, here.head, the.heads);
    if (here.is_own())
      run_own(the, here, length, run);
    else
      run_packed(the, shared, here, length, run, phase);
    here.skip(the.segments, the.heads, length);
  }
}

constexpr int JOIN_WARPS = 8;  // of a block of `combine`
constexpr int LANE_PAIRS = (HEAD_DIM / 2 + 31) / 32;
constexpr int AT_ONCE = 4;  // runs that are on their way

// Sums of runs, as pairs of neighbouring channels: of histories in their rotation, of own tiles.
struct Joined {
  float2 packed[LANE_PAIRS] = {}, own[LANE_PAIRS] = {};
  float peak = LOWEST, total = 0.f;

  DEVICE static bool holds(int j) { return lane_id() + 32 * j < HEAD_DIM / 2; }

  // Take in sums whose total is two to an exponent.
  DEVICE void add(const float2 (&sums)[LANE_PAIRS], float exponent, bool is_own) {
    const float higher = fmaxf(peak, exponent);
    const float fade = exp2_fast(peak - higher), weight = exp2_fast(exponent - higher);
    const float packed_weight = is_own ? 0.f : weight, own_weight = is_own ? weight : 0.f;
#pragma unroll
    for (int j = 0; j < LANE_PAIRS; j++) {
      packed[j].x = packed[j].x * fade + sums[j].x * packed_weight;
      packed[j].y = packed[j].y * fade + sums[j].y * packed_weight;
      own[j].x = own[j].x * fade + sums[j].x * own_weight;
      own[j].y = own[j].y * fade + sums[j].y * own_weight;
    }
    total = total * fade + weight;
    peak = higher;
  }
};

// Join every `joiners`-th run of a query, from one on.
DEVICE void join_runs(const Partial& partial, const Join& join, int column, int first, int joiners,
                      Joined& joined) {
  const int count = join.packed.count + join.own.count;
#pragma unroll 1
  for (int begin = first; begin < count; begin += AT_ONCE * joiners) {
    float2 sums[AT_ONCE][LANE_PAIRS];
    float exponents[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
      const int index = min(begin + i * joiners, count - 1);
      const i64 run = index < join.packed.count ? join.packed.first + index
                                                : join.own.first + index - join.packed.count;
      exponents[i] = partial.exponents[run * GROUP + column];
      const float2* pairs = (const float2*)(partial.sums + (run * GROUP + column) * HEAD_DIM);
#pragma unroll
      for (int j = 0; j < LANE_PAIRS; j++)
        sums[i][j] = Joined::holds(j) ? pairs[lane_id() + 32 * j] : make_float2(0.f, 0.f);
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
      const int index = begin + i * joiners;
      joined.add(sums[i], index < count ? exponents[i] : NOTHING, index >= join.packed.count);
    }
  }
}

struct JoinedShared {
  float2 packed[HEAD_DIM / 2], own[HEAD_DIM / 2];
  float peak, total;
};

DEVICE void share(const Joined& joined, JoinedShared& shared) {
#pragma unroll
  for (int j = 0; j < LANE_PAIRS; j++)
    if (Joined::holds(j)) {
      shared.packed[lane_id() + 32 * j] = joined.packed[j];
      shared.own[lane_id() + 32 * j] = joined.own[j];
    }
  if (lane_id() == 0) shared.peak = joined.peak, shared.total = joined.total;
}

// Add what another warp has joined.
DEVICE void add_shared(const JoinedShared& shared, Joined& joined) {
  float2 packed[LANE_PAIRS], own[LANE_PAIRS];
#pragma unroll
  for (int j = 0; j < LANE_PAIRS; j++) {
    packed[j] = Joined::holds(j) ? shared.packed[lane_id() + 32 * j] : make_float2(0.f, 0.f);
    own[j] = Joined::holds(j) ? shared.own[lane_id() + 32 * j] : make_float2(0.f, 0.f);
  }
  const float higher = fmaxf(joined.peak, shared.peak);
  const float fade = exp2_fast(joined.peak - higher), weight = exp2_fast(shared.peak - higher);
#pragma unroll
  for (int j = 0; j < LANE_PAIRS; j++) {
    joined.packed[j].x = joined.packed[j].x * fade + packed[j].x * weight;
    joined.packed[j].y = joined.packed[j].y * fade + packed[j].y * weight;
    joined.own[j].x = joined.own[j].x * fade + own[j].x * weight;
    joined.own[j].y = joined.own[j].y * fade + own[j].y * weight;
  }
  joined.total = joined.total * fade + shared.total * weight;
  joined.peak = higher;
}

// Keep the new token in the tail, unless it completes the tile or its sequence is a dummy.
DEVICE void write_tail(const Arguments& the, const Work& work, int head) {
  const i64 page = the.segments.tail(work.sequence);
  if (work.rows == TILE || page == NULL_PAGE) return;
  uint4* tail = (uint4*)((Element*)the.tail.at(page, head) + (work.rows - 1) * (2 * HEAD_DIM));
  const uint4* key = (const uint4*)the.keys.at(work.token, head);
  const uint4* value = (const uint4*)the.values.at(work.token, head);
  constexpr int PIECES = HEAD_DIM / 8;
  for (int i = lane_id(); i < 2 * PIECES; i += 32) tail[i] = i < PIECES ? key[i] : value[i - PIECES];
}

// A query has `joiners` warps of a block, a power of two, and there are as many blocks as that
// takes.
extern "C" __global__ void __launch_bounds__(32 * JOIN_WARPS)
combine(const __grid_constant__ Arguments the) {
  __shared__ JoinedShared shared[JOIN_WARPS];
  const int warp = threadIdx.x / 32, joiner = warp % the.joiners;
  const int query = (blockIdx.x * JOIN_WARPS + warp) / the.joiners;
  const int segment = query / (the.heads * GROUP), query_head = query % (the.heads * GROUP);
  const int head = query_head / GROUP, column = query_head % GROUP;
  const Work work = work_of(the.segments, segment);
  const bool told = the.segments.count > FEW_SEGMENTS;
  Join join;
  if (!told) {
    int before;
    const Line line((i64)the.heads * units_of(the.segments, segment, before), the.programs);
    const i64 begin = (i64)the.heads * before + head * work.units();
    if (work.rows) join = join_of(line, begin, work, segment, head, the.heads);
  }
  await_last_kernel();
  if (told && work.rows) join = the.partial.joins[segment * the.heads + head];
  Joined joined;
  if (work.rows) join_runs(the.partial, join, column, joiner, the.joiners, joined);
  share(joined, shared[warp]);
  for (int rest = the.joiners / 2; rest; rest /= 2) {
    __syncthreads();
    if (joiner >= rest) continue;
    add_shared(shared[warp + rest], joined);
    share(joined, shared[warp]);
  }
  if (joiner || !work.rows) return;
  if (query_head % (GROUP * the.sharing) == 0) write_tail(the, work, head / the.sharing);
  __syncwarp();
  turn<HEAD_DIM>((float*)shared[warp].packed, lane_id(), 32, [] { __syncwarp(); });
  u32* out = (u32*)the.out.at(work.token, query_head);
  for (int pair = lane_id(); pair < HEAD_DIM / 2; pair += 32) {
    const float2 turned = shared[warp].packed[pair], own = shared[warp].own[pair];
    out[pair] = pack_model((turned.x * ROTATION_NORM + own.x) / joined.total,
                           (turned.y * ROTATION_NORM + own.y) / joined.total);
  }
}

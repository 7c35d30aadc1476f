// A batch and the pages of a layer, as kernels are given them; kvarn/kernels/cuda/arguments.py fills
// these structures.
#pragma once
#include "model.cuh"

constexpr int TILE = 128;

// [tokens, heads, D] of the model.
struct Rows {
  Element* pointer;
  i64 token_stride;
  i64 head_stride;

  DEVICE Element* at(i64 token, int head) const {
    return pointer + token * token_stride + head * head_stride;
  }
};

struct Pages {
  u8* pointer;
  i64 page_stride;  // in bytes, as that of heads
  i64 head_stride;

  DEVICE u8* at(i64 page, int head) const {
    return pointer + page * page_stride + head * head_stride;
  }
};

// A run of new tokens in one tile.
struct Segment {
  int sequence, tile;
  int first, end;  // rows of the first of them, and after the last
  int origin;      // index that row 0 would have among the batch's tokens
};

// The batch as kvarn/kernels/triton/step.py cuts it.
struct Segments {
  const int* starts;    // [sequences + 1] first new token of each
  const int* lengths;   // [sequences] after this step
  const int* sequence;  // [segments], or null where segment s is the one token of sequence s
  const int* tile;      // [segments], likewise
  const int* table;     // page of each tile
  i64 table_stride;
  const int* tail_page;
  i64 tail_stride;
  int first;  // segment of this launch
  int count;

  // One of this launch's, of no tokens if there is none.
  DEVICE Segment at(int segment) const {
    if (segment >= count) return {0, 0, 0, 0, 0};
    const int index = sequence ? sequence[first + segment] : first + segment;
    if (index < 0) return {0, 0, 0, 0, 0};
    const int length = lengths[index], start = starts[index], next = starts[index + 1];
    const int number = sequence ? tile[first + segment] : (length - 1) / TILE;
    const int before = length - (next - start) - number * TILE;
    const int begin = max(before, 0);
    const int end = next > start ? min(length - number * TILE, TILE) : begin;
    return {index, number, begin, end, start - before};
  }

  DEVICE i64 page(const Segment& segment) const {
    return table[segment.sequence * table_stride + segment.tile];
  }
  DEVICE i64 tail(int sequence) const { return tail_page[sequence * tail_stride]; }
};

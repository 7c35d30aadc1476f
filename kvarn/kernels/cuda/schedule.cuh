// Which program, of one warp or two, does what.
//
// The work of a step is a line of units: segment by segment, head by head, the packed tiles of a
// history and then slabs of the sequence's own tile, which take about as long. Every program
// takes a piece of the line, all of one length, whatever the sequences' lengths are. Where histories and
// own tiles meet the piece is cut: a run lies in one of them, and leaves a partial result of its
// own, at an index that grows along the line.
#pragma once
#include "own.cuh"

// What a segment of one token asks for. Segments of more tokens, or of none, have no work here.
struct Work {
  int tiles;     // complete ones before its own
  int rows;      // of the own tile, the new token's the last of them
  int sequence;  // in the batch
  int token;     // among the new ones

  DEVICE int slabs() const { return (rows + SLAB - 1) / SLAB; }
  DEVICE int units() const { return tiles + slabs(); }
};

DEVICE Work work_of(const Segments& segments, int index) {
  const Segment segment = segments.at(index);
  if (segment.end - segment.first != 1) return {0, 0, 0, 0};
  return {segment.tile, segment.end, segment.sequence, segment.origin + segment.first};
}

// Units of a head: of all segments, and of those before `end`; the whole warp asks.
DEVICE int units_of(const Segments& segments, int end, int& before) {
  int all = 0;
  before = 0;
  for (int segment = lane_id(); segment < segments.count; segment += 32) {
    const int units = work_of(segments, segment).units();
    all += units;
    before += segment < end ? units : 0;
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    all += __shfl_xor_sync(0xffffffffu, all, step);
    before += __shfl_xor_sync(0xffffffffu, before, step);
  }
  return all;
}

// The segment in which a unit of a head lies, and the units of a head before that.
DEVICE int segment_at(const Segments& segments, int unit, int& before) {
  before = 0;
  for (int first = 0;; first += 32) {
    const int units = work_of(segments, first + lane_id()).units();
    int after = units;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, after, step);
      if (lane_id() >= step) after += other;
    }
    const u32 beyond = __ballot_sync(0xffffffffu, before + after > unit);
    if (beyond) {
      const int lane = __ffs(beyond) - 1;
      before += __shfl_sync(0xffffffffu, after - units, lane);
      return first + lane;
    }
    before += __shfl_sync(0xffffffffu, after, 31);
  }
}

// The line and its pieces, none of them empty.
struct Line {
  i64 units;
  int pieces;

  DEVICE Line(i64 units, int programs) : units(units), pieces((int)min(units, (i64)programs)) {}
  DEVICE i64 begin(int piece) const { return units * piece / pieces; }
  DEVICE int piece_of(i64 unit) const { return (int)(((unit + 1) * pieces - 1) / units); }
};

// Where a program is on its piece.
struct Position {
  int segment, head, unit;
  int left;  // units of the piece from here on
  Work work;

  DEVICE bool is_own() const { return unit >= work.tiles; }

  // Units up to the end of the run.
  DEVICE int run() const { return min(left, (is_own() ? work.units() : work.tiles) - unit); }

  // Go on by so many units of a run.
  DEVICE void skip(const Segments& segments, int heads, int units) {
    left -= units;
    unit += units;
    if (left == 0 || unit < work.units()) return;
    unit = 0;
    if (++head < heads) return;
    head = 0;
    do work = work_of(segments, ++segment);
    while (work.units() == 0);
  }
};

// Where a piece begins.
DEVICE Position position(const Segments& segments, const Line& line, int piece, int heads) {
  const i64 place = line.begin(piece);
  int before;
  const int segment = segment_at(segments, (int)(place / heads), before);
  const Work work = work_of(segments, segment);
  const int units = (int)(place - (i64)before * heads);
  return {segment, units / work.units(), units % work.units(),
          (int)(line.begin(piece + 1) - place), work};
}

// Where a piece's run leaves its result; `own` says in which of the two the run lies.
DEVICE int run_index(int piece, int segment, int head, int heads, bool own) {
  return piece + 2 * (segment * heads + head) + own;
}

// The results of a history or of an own tile, one of each partner for every run: so many from an
// index on.
struct Runs {
  int first;
  int count;
};

DEVICE Runs runs_of(const Line& line, i64 begin, int length, int index) {
  if (length == 0) return {0, 0};
  const int first = line.piece_of(begin), last = line.piece_of(begin + length - 1);
  return {(index + first) * PARTNERS, (last - first + 1) * PARTNERS};
}

// What `combine` must know of a segment's head. It finds out by itself, while `attend` runs, unless
// there are so many segments that it would take long to look at all of them.
struct alignas(16) Join {
  Runs packed;
  Runs own;
};

constexpr int FEW_SEGMENTS = 128;

// Of a head whose units begin at a place on the line.
DEVICE Join join_of(const Line& line, i64 begin, const Work& work, int segment, int head,
                    int heads) {
  const int index = run_index(0, segment, head, heads, false);
  return {runs_of(line, begin, work.tiles, index),
          runs_of(line, begin + work.tiles, work.slabs(), index + 1)};
}

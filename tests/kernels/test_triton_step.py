"""A batch is cut into segments on the device as it would be on the host."""

import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from kvarn.kernels.batch import Batch
from kvarn.kernels.plain.step import cut
from kvarn.kernels.triton.step import Step, load_segment, prepare
from tests.kernels.steps import DEVICE


@triton.jit
def read(starts, lengths, segment_sequence, segment_tile, out):
    index = tl.program_id(0)
    columns = load_segment(starts, lengths, segment_sequence, segment_tile, index)
    for column in tl.static_range(5):
        tl.store(out + index * 5 + column, columns[column])


def segments(step: Step) -> torch.Tensor:
    """Sequence, tile, first row, row after the last one, and origin of the segments there are."""
    out = torch.full((step.segments, 5), -7, dtype=torch.int32, device=DEVICE)
    batch = step.batch
    read[(step.segments,)](
        batch.starts, batch.lengths, step.segment_sequence, step.segment_tile, out
    )
    return out[out[:, 3] > out[:, 2]].cpu()


def batch(new: list[int], computed: list[int], device: torch.device = DEVICE) -> Batch:
    starts = torch.tensor([0, *new]).cumsum(0).int()
    lengths = torch.tensor([a + b for a, b in zip(new, computed, strict=True)]).int()
    table = torch.arange(1, len(new) * 8 + 1).view(-1, 8).int()
    return Batch(
        starts=starts.to(device),
        lengths=lengths.to(device),
        table=table.to(device),
        tokens=sum(new),
        most_new=max(new),
        longest=int(lengths.max()),
    )


COUNTS = st.one_of(st.integers(0, 3), st.integers(125, 131), st.integers(0, 500))


@settings(deadline=None)
@given(st.lists(st.tuples(COUNTS, COUNTS), min_size=1, max_size=6), st.booleans())
def test_segments_are_those_that_the_host_would_cut(
    sequences: list[tuple[int, int]], single: bool
) -> None:
    new = [min(count, 1) if single else count for count, _ in sequences] + [1]
    some = batch(new, [computed for _, computed in sequences] + [127])
    parts = cut(some.starts.cpu().long(), some.lengths.cpu().long(), some.table.cpu())
    want = [parts.sequence, parts.tile, parts.first, parts.end, parts.origin]
    assert segments(prepare(some)).tolist() == torch.stack(want, dim=1).tolist()


def test_nothing_waits_for_the_device() -> None:
    """It works on tensors that have no data at all."""
    step = prepare(batch([200, 1, 3], [0, 60, 500], torch.device("meta")))
    assert step.segment_sequence is not None
    assert step.segment_sequence.is_meta


def test_a_step_of_single_tokens_makes_nothing() -> None:
    step = prepare(batch([1, 1, 0], [100, 127, 9]))
    assert (step.segments, step.segment_sequence, step.segment_tile) == (3, None, None)

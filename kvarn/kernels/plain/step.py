"""What one step's new tokens do to the cache, as index tensors that all layers share.

A *segment* is the run of a sequence's new tokens that lie in one tile: a prompt's chunk covers
several, a decoded token one. Queries of a segment see their own tile raw, as far as it has come,
and every earlier tile packed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from kvarn.format.layout import TILE_TOKENS
from kvarn.kernels.batch import NULL_PAGE, Batch


@dataclass(frozen=True)
class Segments:
    """The segments of a batch, one element of each ``[S]`` tensor a segment, on the host.

    Attributes:
        sequence: index in the batch.
        tile: index of the tile in the sequence.
        first: row of the first new token in the tile.
        end: row after the last one.
        origin: index that row 0 would have among the batch's tokens.
        page: the tile's own page.
    """

    sequence: torch.Tensor
    tile: torch.Tensor
    first: torch.Tensor
    end: torch.Tensor
    origin: torch.Tensor
    page: torch.Tensor


@dataclass(frozen=True)
class Queries:
    """N segments whose queries are computed together, the longest history first.

    Attributes:
        segment: ``[N]`` index of the segment in the step.
        row: ``[N, R]`` row of each query in its tile; R is 1 or 128.
        token: ``[N, R]`` index of each query in the batch.
        new: ``[M]`` which of the N·R queries are new tokens; the others are padding.
        target: ``[M]`` index in the batch of each of those.
        history: ``[N, depth]`` pages of the earlier tiles.
        reach: for each earlier tile, how many segments have one.
    """

    segment: torch.Tensor
    row: torch.Tensor
    token: torch.Tensor
    new: torch.Tensor
    target: torch.Tensor
    history: torch.Tensor
    reach: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """A batch of S segments, on the device.

    Attributes:
        token: ``[S, 128]`` index in the batch of the token at each row.
        end: ``[S]`` row after the last token.
        resumed: ``[·]`` segments whose tile was begun in an earlier step.
        resumed_rows: ``[·]`` how many of its rows are in the tail.
        resumed_sequence: ``[·]`` whose tail.
        closed: ``[·]`` segments whose tile is complete.
        closed_page: ``[·]`` where these tiles go.
        open_token: ``[·]`` tokens that stay in a tail.
        open_row: ``[·]`` their rows.
        open_sequence: ``[·]`` their sequences.
        queries: all segments, once each.
    """

    token: torch.Tensor
    end: torch.Tensor
    resumed: torch.Tensor
    resumed_rows: torch.Tensor
    resumed_sequence: torch.Tensor
    closed: torch.Tensor
    closed_page: torch.Tensor
    open_token: torch.Tensor
    open_row: torch.Tensor
    open_sequence: torch.Tensor
    queries: tuple[Queries, ...]


def cut(starts: torch.Tensor, lengths: torch.Tensor, table: torch.Tensor) -> Segments:
    """Cut a batch into segments, without those of dummy sequences. All arguments on the host.

    Args:
        starts: ``[sequences + 1]`` index of each sequence's first new token; the last is the
            number of tokens.
        lengths: ``[sequences]`` tokens of each sequence after this step.
        table: ``[sequences, ·]`` page of each tile.
    """
    new = starts.diff()
    computed = lengths - new
    first_tile = computed // TILE_TOKENS
    count = torch.where(new > 0, (lengths - 1) // TILE_TOKENS + 1 - first_tile, 0)
    sequence = torch.arange(len(lengths)).repeat_interleave(count)
    before = count.cumsum(0) - count
    tile = first_tile[sequence] + torch.arange(len(sequence)) - before[sequence]
    page = table[sequence, tile].long()
    real = page != NULL_PAGE
    sequence, tile, page = sequence[real], tile[real], page[real]
    return Segments(
        sequence=sequence,
        tile=tile,
        first=(computed[sequence] - tile * TILE_TOKENS).clamp(min=0),
        end=(lengths[sequence] - tile * TILE_TOKENS).clamp(max=TILE_TOKENS),
        origin=starts[sequence] + tile * TILE_TOKENS - computed[sequence],
        page=page,
    )


def prepare(batch: Batch) -> Step:
    """Index tensors of a batch, on its device; they are made on the host."""
    device, table = batch.table.device, batch.table.cpu()
    parts = cut(batch.starts.cpu().long(), batch.lengths.cpu().long(), table)
    row = torch.arange(TILE_TOKENS)
    first, end, origin = (column.unsqueeze(-1) for column in (parts.first, parts.end, parts.origin))
    token = (origin + row).clamp(min=origin + first, max=origin + end - 1)
    new = (row >= first) & (row < end)
    resumed = _where(parts.first > 0)
    closed = _where(parts.end == TILE_TOKENS)
    open_segment, open_row = (new & (end < TILE_TOKENS)).nonzero(as_tuple=True)
    return Step(
        token=token.to(device),
        end=parts.end.to(device),
        resumed=resumed.to(device),
        resumed_rows=parts.first[resumed].to(device),
        resumed_sequence=parts.sequence[resumed].to(device),
        closed=closed.to(device),
        closed_page=parts.page[closed].to(device),
        open_token=token[open_segment, open_row].to(device),
        open_row=open_row.to(device),
        open_sequence=parts.sequence[open_segment].to(device),
        queries=tuple(_queries(parts, token=token, new=new, table=table, device=device)),
    )


def _queries(
    parts: Segments,
    *,
    token: torch.Tensor,
    new: torch.Tensor,
    table: torch.Tensor,
    device: torch.device,
) -> Iterator[Queries]:
    """Single queries, and longer runs padded to a whole tile.

    The padding makes a run's products of one shape whatever chunk it comes in. Padding single
    queries as well would take several times as long, for results that differ by rounding alone.
    """
    deepest_first = parts.tile.argsort(descending=True, stable=True)
    alone = (parts.end - parts.first == 1)[deepest_first]
    for chosen, width in ((deepest_first[alone], 1), (deepest_first[~alone], TILE_TOKENS)):
        if len(chosen) == 0:
            continue
        row = torch.arange(TILE_TOKENS).expand(len(chosen), -1)
        if width == 1:
            row = parts.first[chosen].unsqueeze(-1)
        asked = token[chosen].gather(1, row)
        wanted = _where(new[chosen].gather(1, row).flatten())
        depth = parts.tile[chosen]
        deepest = int(depth[0])
        yield Queries(
            segment=chosen.to(device),
            row=row.to(device),
            token=asked.to(device),
            new=wanted.to(device),
            target=asked.flatten()[wanted].to(device),
            history=table[parts.sequence[chosen], :deepest].long().to(device),
            reach=tuple(int((depth > tile).sum()) for tile in range(deepest)),
        )


def _where(condition: torch.Tensor) -> torch.Tensor:
    return condition.nonzero(as_tuple=True)[0]

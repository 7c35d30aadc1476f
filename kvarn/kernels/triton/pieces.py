"""How the attention of prompts is cut, so that what it needs of the cache fits into memory.

In *pages* of scratch memory lie keys and values as the model made them: a page for each tile of a
sequence's history, and one for the own tile of each segment. The cut is the host's; its numbers
may be larger than what the device finds.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from kvarn.format.layout import TILE_TOKENS
from kvarn.kernels.batch import Counts


@dataclass(frozen=True)
class Piece:
    """What is attended at once: sequences, and tiles of their histories.

    Attributes:
        first: the first sequence.
        last: the one after the last.
        begin: the first tile.
        stop: the tile after the last one. If there is none, histories are attended to their ends,
            and segments' own tiles with them.
        tiles: most pages of histories.
        own: most pages of own tiles.
        width: most pages that one segment attends.
    """

    first: int
    last: int
    begin: int
    stop: int | None
    tiles: int
    own: int
    width: int

    @property
    def is_whole(self) -> bool:
        """Whether its sequences have no other pieces."""
        return self.begin == 0 and self.stop is None

    def with_next(self, other: "Piece") -> "Piece":
        """Both, if they are of whole sequences and `other` comes later."""
        return replace(
            self,
            last=other.last,
            tiles=self.tiles + other.tiles,
            own=self.own + other.own,
            width=max(self.width, other.width),
        )


def cut(counts: Counts, *, pages: int) -> list[Piece]:
    """Pieces that fit into so many pages, for all sequences of several new tokens.

    Of a sequence's pieces, that with the own tiles comes first.
    """
    found: list[Piece] = []
    for sequence, (new, length) in enumerate(zip(counts.new, counts.lengths, strict=True)):
        if new > 1:
            for piece in _pieces(sequence, new, length, pages):
                joins = bool(found) and _fit(found[-1], piece, pages)
                found.append(found.pop().with_next(piece) if joins else piece)
    return found


def _pieces(sequence: int, new: int, length: int, pages: int) -> Iterator[Piece]:
    history = (length - 1) // TILE_TOKENS
    own = min(history, (new + TILE_TOKENS - 2) // TILE_TOKENS) + 1
    begin = max(0, history + own - pages)
    tiles = history - begin
    yield Piece(sequence, sequence + 1, begin, None, tiles, own, tiles + 1)
    for first in range(0, begin, pages):
        tiles = min(pages, begin - first)
        yield Piece(sequence, sequence + 1, first, first + tiles, tiles, 0, tiles)


def _fit(one: Piece, other: Piece, pages: int) -> bool:
    used = one.tiles + one.own + other.tiles + other.own
    return one.is_whole and other.is_whole and used <= pages

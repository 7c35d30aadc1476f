"""Steps for kernels: pages full of poison, and sequences that grow in them."""

from dataclasses import dataclass

import torch

from kvarn.format.layout import TILE_TOKENS, TileLayout
from kvarn.kernels.batch import Batch, Counts, LayerCache

BLOCKS = 48
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def joined(rows: list[torch.Tensor], chunks: dict[int, tuple[int, int]]) -> torch.Tensor:
    """What a step brings of each sequence's rows: the tokens from which to which."""
    return torch.cat([rows[member][slice(*chunk)] for member, chunk in chunks.items()])


@dataclass
class World:
    """Random keys and values of some sequences, and the pages of one layer.

    Attributes:
        layout: format and head dimension.
        lengths: of the sequences in the end.
        heads: KV heads.
        dtype: of the model.
        seed: of all that is random.
    """

    layout: TileLayout
    lengths: list[int]
    heads: int = 2
    dtype: torch.dtype = torch.float32
    seed: int = 0
    device: torch.device = DEVICE

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(self.seed)
        self.keys, self.values = (
            [self._rows(length, generator) for length in self.lengths] for _ in "kv"
        )
        count, width = len(self.lengths), -(-max(self.lengths) // TILE_TOKENS)
        pages = torch.randperm(BLOCKS - 1, generator=generator) + 1
        self.table = pages[: count * width].view(count, width)
        self.tail_page = pages[-count:].int()
        # Pages of other layers lie between those of this one, as in vLLM's pool.
        packed = (BLOCKS, 3, self.heads, TILE_TOKENS, self.layout.bytes_per_token)
        self.packed = torch.full(packed, 255, dtype=torch.uint8, device=self.device)[:, 1]
        tail = (BLOCKS, 2, self.heads, TILE_TOKENS, 2 * self.layout.head_dim)
        self.tail = torch.full(tail, torch.nan, dtype=self.dtype, device=self.device)[:, 1]

    def _rows(self, length: int, generator: torch.Generator) -> torch.Tensor:
        """Tokens of uneven size, and channels as well, one of them loud and with a mean."""
        channels = self.layout.head_dim
        rows = torch.randn(length, self.heads, channels, generator=generator)
        rows *= torch.randn(length, 1, 1, generator=generator).mul(0.5).exp()
        rows *= torch.randn(channels, generator=generator).mul(0.3).exp()
        rows[:, :, channels // 3] += 5
        return rows.to(self.device, self.dtype)

    def bias(self, height: float) -> None:
        """Add to all keys what the bias of a projection may be: much, in a few channels."""
        for rows in self.keys:
            rows[..., ::31] += height

    def cache(self, members: list[int]) -> LayerCache:
        """The pages, with the tails of some sequences."""
        return LayerCache(
            self.layout, self.packed, self.tail, self.tail_page[members].to(self.device)
        )

    def batch(self, chunks: dict[int, tuple[int, int]], *, padding: int = 0) -> Batch:
        """For each sequence, the tokens from which to which; then sequences without any."""
        ends = [end for _, end in chunks.values()]
        counts = torch.tensor([0] + [end - begin for begin, end in chunks.values()] + [0] * padding)
        table = torch.nn.functional.pad(self.table[list(chunks)], (0, 0, 0, padding))
        return Batch(
            starts=counts.cumsum(0).int().to(self.device),
            lengths=torch.tensor(ends + [0] * padding).int().to(self.device),
            table=table.int().to(self.device),
            tokens=int(counts.sum()),
            most_new=int(counts.max()),
            longest=max(ends),
            counts=Counts(counts[1:].tolist(), ends + [0] * padding),
        )

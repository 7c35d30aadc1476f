"""Queries, keys and values to compare formats on: captured from a trained model, and synthetic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from bench.quality.llama import Llama, load, plain_attention
from bench.quality.recall import Needles

STORED_TOKENS = 2048
QUERIES = 128
"""Of the tokens that follow those that are stored."""
FACTS = 12
PROSE_FROM, NEEDLES_FROM = 20_000, 60_000
"""Places in the held-out text."""
SYNTHETIC_LAYERS = 4
HEADS, GROUP, HEAD_DIM = 2, 4, 128
BIASED_CHANNELS, BIAS = 8, 167.0
"""What the bias of a projection may add to keys: docs/decisions/0002-tile-format.md."""


@dataclass(frozen=True)
class Layer:
    """One layer's attention: queries ``[Hkv, group, n, D]``, keys and values ``[Hkv, T, D]``."""

    queries: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor

    def weights(self, keys: torch.Tensor) -> torch.Tensor:
        """Attention of the queries over these keys ``[Hkv, group, n, T]``."""
        scale: float = keys.shape[-1] ** -0.5
        return (self.queries @ keys.unsqueeze(1).mT * scale).softmax(-1)


def captured_sets(folder: Path, device: torch.device) -> Mapping[str, Sequence[Layer]]:
    """What the trained model's layers have, by the kind of text, each a list of layers."""
    model = load(folder, device)
    held_out = np.load(folder / "held_out.npy").astype(np.int64)
    length = STORED_TOKENS + QUERIES
    needles = Needles(Tokenizer.from_file(str(folder / "tokenizer.json"))).haystack(
        held_out[NEEDLES_FROM:], length=length, facts=FACTS, rng=np.random.default_rng(5)
    )
    return {
        "prose": captured(model, held_out[PROSE_FROM : PROSE_FROM + length]),
        "needles": captured(model, needles.tokens),
    }


def synthetic_sets(device: torch.device) -> Mapping[str, Sequence[Layer]]:
    """Made-up layers by what is hard in them; they need no model."""
    hard = {
        "outliers": partial(synthetic, uneven=0.1),
        "uneven tokens": partial(synthetic, uneven=0.7),
        "biased keys": partial(synthetic, uneven=0.7, bias=BIAS),
    }
    return {
        name: [layer(seed, device=device) for seed in range(SYNTHETIC_LAYERS)]
        for name, layer in hard.items()
    }


@torch.no_grad()
def captured(model: Llama, tokens: np.ndarray) -> list[Layer]:
    """What the model's layers hand to attention over these tokens, at bf16 as a cache gets it."""
    layers: list[Layer] = []
    heads = model.shape.num_key_value_heads

    def attend(
        layer: int, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        last = query[0, :, STORED_TOKENS:].unflatten(0, (heads, -1))
        stored = (rows[0, :, :STORED_TOKENS].bfloat16().float() for rows in (keys, values))
        layers.append(Layer(last, *stored))
        return plain_attention(layer, query, keys, values)

    device = next(model.parameters()).device
    model(torch.from_numpy(tokens)[None].to(device), attend)
    return layers


def synthetic(seed: int, *, uneven: float, bias: float = 0.0, device: torch.device) -> Layer:
    """Four outlier channels with a mean of their own, and tokens of uneven magnitude.

    Args:
        seed: of the random numbers.
        uneven: deviation of the logarithm of the tokens' magnitude.
        bias: what every key has more or less in some channels; attention does not change by it.
        device: where the tensors go.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    means = torch.zeros(HEADS, 1, HEAD_DIM)
    for head in range(HEADS):
        means[head, 0, torch.randperm(HEAD_DIM, generator=generator)[:4]] = 8 * normal(4)
    channels = (0.5 * normal(HEADS, 1, HEAD_DIM)).exp()
    keys = means + channels * normal(HEADS, STORED_TOKENS, HEAD_DIM)
    keys = keys * (uneven * normal(HEADS, STORED_TOKENS, 1)).exp()
    values = normal(HEADS, STORED_TOKENS, HEAD_DIM) * (0.5 * normal(HEADS, 1, HEAD_DIM)).exp()
    values = values * (uneven * normal(HEADS, STORED_TOKENS, 1)).exp()
    queries = _queries(keys - keys.mean(1, keepdim=True), generator)
    for head in keys:
        head[:, torch.randperm(HEAD_DIM, generator=generator)[:BIASED_CHANNELS]] += bias
    return Layer(queries.to(device), keys.to(device), values.to(device))


def _queries(keys: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each query points at some key, as far as noise lets it: ``[Hkv, group, n, D]``."""
    places = torch.randint(STORED_TOKENS, (HEADS, GROUP * QUERIES), generator=generator)
    aim = torch.nn.functional.normalize(keys.gather(1, places[..., None].expand(-1, -1, HEAD_DIM)))
    noise = torch.randn(aim.shape, generator=generator)
    return (6 * torch.nn.functional.normalize(aim, dim=-1) + 0.5 * noise).unflatten(1, (GROUP, -1))

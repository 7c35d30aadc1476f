"""A small tokenizer, a small model and random keys and values."""

import pytest
import torch
from tokenizers import Tokenizer

from bench.quality.llama import Llama, Shape
from bench.quality.train import make_tokenizer

SHAPE = Shape(
    vocab_size=400,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    max_position_embeddings=512,
)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [f"The harbour of town {n} has a lonely tower and {n} ships." for n in range(400)]


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> Tokenizer:
    return make_tokenizer(texts, SHAPE.vocab_size)


@pytest.fixture
def model() -> Llama:
    torch.manual_seed(0)
    return Llama(SHAPE).eval()


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values ``[2, 384, 64]`` with outlier channels."""
    generator = torch.Generator().manual_seed(1)
    keys, values = torch.randn(2, 2, 384, 64, generator=generator)
    keys[..., ::16] *= 6
    return keys, values

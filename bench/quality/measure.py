"""Perplexity, recall of needles and drift of a model whose attention goes through a format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

from bench.formats.method import Method
from bench.quality.cache import Growing, Parallel
from bench.quality.llama import Llama, load
from bench.quality.recall import Haystack, Needles

PARTS = 4
"""The generated text is looked at in so many equal parts."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        sequences: rows of held-out text, each as long as the model's context.
        context_tokens: their length, and that of a haystack.
        haystacks: number of haystacks, each with `facts` needles.
        facts: needles in each.
        prompt_tokens: held-out text that each generation starts from.
        generated_tokens: what follows.
        generations: how many, side by side.
        own_text: whether every format writes a text of its own too, not bf16 alone.
    """

    sequences: int = 16
    context_tokens: int = 4096
    haystacks: int = 16
    facts: int = 16
    prompt_tokens: int = 256
    generated_tokens: int = 2000
    generations: int = 8
    own_text: bool = True


@dataclass(frozen=True)
class Material:
    """The model and what it is asked."""

    model: Llama
    text: Tensor
    haystacks: Sequence[Haystack]
    prompts: Tensor
    sizes: Sizes


def material(folder: Path, device: torch.device, sizes: Sizes) -> Material:
    """All that is measured on, the same for every format.

    Raises:
        FileNotFoundError: no model lies in the folder.
    """
    held_out = np.load(folder / "held_out.npy").astype(np.int64)
    count = sizes.sequences * sizes.context_tokens
    text = torch.from_numpy(held_out[:count].reshape(sizes.sequences, -1))
    needles = Needles(Tokenizer.from_file(str(folder / "tokenizer.json")))
    haystacks = [
        needles.haystack(
            np.roll(held_out, -seed * sizes.context_tokens),
            length=sizes.context_tokens,
            facts=sizes.facts,
            rng=np.random.default_rng(seed),
        )
        for seed in range(sizes.haystacks)
    ]
    starts = np.linspace(0, len(held_out) - sizes.prompt_tokens, sizes.generations, dtype=int)
    prompts = np.stack([held_out[start : start + sizes.prompt_tokens] for start in starts])
    model = load(folder, device)
    return Material(model, text.to(device), haystacks, torch.from_numpy(prompts).to(device), sizes)


@torch.no_grad()
def perplexity(given: Material, method: Method | None) -> float:
    """Perplexity per token of the held-out text."""
    losses = [
        functional.cross_entropy(given.model(row[None, :-1], Parallel(method))[0], row[1:])
        for row in given.text
    ]
    return float(torch.stack(losses).mean().exp())


@torch.no_grad()
def recall(given: Material, method: Method | None) -> float:
    """Part of the needles whose every digit the model names."""
    found = []
    for haystack in given.haystacks:
        tokens = torch.from_numpy(haystack.tokens).to(given.text.device)
        logits = given.model(tokens[None], Parallel(method))[0]
        answers = torch.from_numpy(haystack.answers).to(tokens.device)
        found.append((logits[answers - 1].argmax(-1) == tokens[answers]).all(-1))
    return float(torch.cat(found).float().mean())


@torch.no_grad()
def generate(given: Material, method: Method | None) -> Tensor:
    """Text that the model writes through the format, sampled with the same chance for all.

    Returns:
        tokens ``[generations, prompt + generated]``.
    """
    sizes, tokens = given.sizes, given.prompts
    generator = torch.Generator(tokens.device).manual_seed(0)
    cache = Growing(method, sizes.prompt_tokens + sizes.generated_tokens)
    new = tokens
    for _ in range(sizes.generated_tokens):
        logits = given.model(new, cache, first_position=cache.length)[:, -1]
        cache.length += new.shape[1]
        waiting = torch.empty_like(logits).exponential_(generator=generator)
        new = (logits - waiting.log()).argmax(-1, keepdim=True)
        tokens = torch.cat([tokens, new], dim=1)
    return tokens


@torch.no_grad()
def divergence(given: Material, method: Method, written: Tensor) -> Mapping[str, list[float]]:
    """How far the format's predictions are from bf16's along a text that bf16 wrote, by part.

    Returns:
        mean Kullback-Leibler divergence in nats, and part of the positions with the same best
        token.
    """
    nats, same = [], []
    for row in written[:, :-1]:
        exact, got = (
            given.model(row[None], Parallel(each))[0, given.sizes.prompt_tokens :].log_softmax(-1)
            for each in (None, method)
        )
        nats.append((exact.exp() * (exact - got)).sum(-1))
        same.append((exact.argmax(-1) == got.argmax(-1)).float())
    return {"kl_nats": _by_part(nats), "same_best_token": _by_part(same)}


@torch.no_grad()
def surprise(given: Material, written: Tensor) -> list[float]:
    """Perplexity, to bf16, of a text that a format wrote, by part: grows where it goes astray."""
    losses = []
    for row in written:
        logits = given.model(row[None, :-1], Parallel(None))[0, given.sizes.prompt_tokens :]
        target = row[given.sizes.prompt_tokens + 1 :]
        losses.append(functional.cross_entropy(logits, target, reduction="none"))
    return [round(float(np.exp(loss)), 3) for loss in _by_part(losses)]


def _by_part(rows: Sequence[Tensor]) -> list[float]:
    mean = torch.stack(list(rows)).mean(0)
    return [round(float(part.mean()), 6) for part in mean.chunk(PARTS)]

"""The small model, its training, and attention through a cache format."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from bench.formats import rivals
from bench.formats.method import Method
from bench.formats.plane import shipped
from bench.quality import corpus
from bench.quality.cache import Growing, Parallel, as_bf16
from bench.quality.llama import Llama, load, save
from bench.quality.measure import Material, Sizes, divergence, generate, perplexity, recall
from bench.quality.recall import DIGITS, Haystack, Needles
from bench.quality.train import Batches, Plan, check_recall, train
from hack.errors import Refusal
from kvarn.format.layout import FORMATS, TileLayout
from kvarn.format.reference import attention

CPU = torch.device("cpu")
K4V2 = FORMATS["kvarn_k4v2_g128"]


@pytest.fixture
def heads() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Query ``[1, 4, 300, 64]``, keys and values ``[1, 2, 300, 64]``, at bf16."""
    generator = torch.Generator().manual_seed(2)
    query = torch.randn(1, 4, 300, 64, generator=generator)
    keys, values = as_bf16(torch.randn(2, 1, 2, 300, 64, generator=generator))
    return query, keys, values


@pytest.fixture
def haystack(tokenizer: Tokenizer) -> Haystack:
    prose = np.array(tokenizer.encode("The tower is empty. " * 200).ids)
    rng = np.random.default_rng(0)
    return Needles(tokenizer).haystack(prose, length=512, facts=3, rng=rng)


def test_transformers_reads_the_same_model(model: Llama, tmp_path: Path) -> None:
    save(model, tmp_path)
    tokens = torch.arange(40)[None]
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(
            load(tmp_path, CPU)(tokens), theirs(tokens).logits, atol=1e-4, rtol=0
        )


def test_attention_is_the_references(
    heads: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    """Own tile raw, every earlier one through the cache, for each of 300 tokens."""
    got = Parallel(shipped(K4V2))(0, *heads)[0].transpose(0, 1)
    rows = [each[0].transpose(0, 1) for each in heads]
    torch.testing.assert_close(
        got, attention(TileLayout(K4V2, 64), *rows, 64**-0.5), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("method", [None, shipped(K4V2), rivals.int4_per_token_head()])
def test_a_growing_cache_attends_as_the_whole_sequence(
    heads: tuple[torch.Tensor, torch.Tensor, torch.Tensor], method: Method | None
) -> None:
    whole, cache, prompt = Parallel(method)(0, *heads), Growing(method, 300), 100
    parts = [cache(0, *(each[:, :, :prompt] for each in heads))]
    cache.length = prompt
    for position in range(prompt, 300):
        parts.append(cache(0, *(each[:, :, position : position + 1] for each in heads)))
        cache.length += 1
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, atol=1e-5, rtol=1e-4)


def test_every_fact_is_asked_for_once(haystack: Haystack, tokenizer: Tokenizer) -> None:
    text = tokenizer.decode(haystack.tokens.tolist())
    body, questions = text.split("Now say the codes again.")
    codes = [tokenizer.decode(haystack.tokens[answer].tolist()) for answer in haystack.answers]
    assert len(haystack.tokens) == 512
    assert [len(code) for code in codes] == [DIGITS] * 3
    assert all(code in body and code in questions for code in codes)


def test_a_batch_is_the_same_whoever_asks(tokenizer: Tokenizer, model: Llama) -> None:
    tokens = np.arange(4000) % 300
    batches = [
        Batches(tokens, Needles(tokenizer), Plan(shape=model.shape, rows=3, recall_rows=1))
        for _ in range(2)
    ]
    assert torch.equal(batches[0][7], batches[1][7])
    assert batches[0][7].shape == (3, model.shape.max_position_embeddings + 1)


def test_training_writes_what_measuring_needs(
    texts: list[str], model: Llama, tmp_path: Path
) -> None:
    shape = replace(model.shape, max_position_embeddings=256)
    plan = Plan(shape=shape, rows=2, recall_rows=0, steps=2)
    found = train(tmp_path, texts * 4, plan, CPU)
    assert json.loads((tmp_path / "training.json").read_text())["recall"] == found < 0.1
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "held_out.npy"} <= names
    assert np.load(tmp_path / "held_out.npy").max() < model.shape.vocab_size


def test_a_model_without_long_memory_is_refused() -> None:
    with pytest.raises(Refusal, match=r"finds 3% of the needles.* train it again with --seed 8"):
        check_recall(0.03, seed=7)
    check_recall(0.98, seed=7)


def test_a_format_that_stores_everything_changes_nothing(model: Llama, haystack: Haystack) -> None:
    raw = Method("raw", lambda _: 16.0, lambda keys, values: (keys, values), keeps_open_tile=True)
    sizes = Sizes(prompt_tokens=130, generated_tokens=12)
    tokens = torch.from_numpy(haystack.tokens)[None]
    given = Material(model, tokens, [haystack], tokens[:, :130], sizes)
    written = generate(given, None)
    assert torch.equal(generate(given, raw), written)
    assert perplexity(given, raw) == pytest.approx(perplexity(given, None), rel=1e-5)
    assert recall(given, raw) == recall(given, None)
    assert max(divergence(given, raw, written)["kl_nats"]) < 1e-6


def test_markup_and_code_do_not_reach_the_corpus(tmp_path: Path) -> None:
    sentence = (
        "This sentence is long enough to be learnt from, and it says nothing of any use at all."
    )
    page = tmp_path / "page.html"
    page.write_text(f"<p>{sentence}</p><pre>x = 1;</pre><p>Short.</p><p>F(x) = {'[1]' * 40}.</p>")
    assert list(corpus.paragraphs(corpus.plain(page))) == [sentence]

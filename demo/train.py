"""Trains the model that the demo serves: `python -m demo.train [--out DIR] [--seconds 300]`.

A Llama in miniature, with everything that shapes a cache: grouped-query attention, rotary
positions, heads of 64 and six layers. What it learns in a minute or two is the sound of English.
"""

import json
import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from demo import corpus
from demo.model import folder
from hack import cache
from hack.errors import Refusal
from hack.progress import Step, step

TOKENS = 720_000
"""Four times the corpus, a minute or two on two cores; with more the model learns it by heart."""
SECONDS = 300.0
"""Longest time to train, for machines that are slow or busy."""

VOCABULARY = 2048
CONTEXT_TOKENS = 4096
FEWEST_CHARACTERS = 300_000

BATCH_TOKENS = 1024
LENGTHS = ((0.0, 128), (0.6, 256), (0.8, 512), (0.92, 1024))
"""From which part of the training on, sequences of how many tokens: short ones teach words sooner,
long ones teach the positions that fill several tiles."""

MATRIX_RATE, VECTOR_RATE = 0.02, 0.004
"""Peak learning rates of Muon for the matrices and of AdamW for the embedding and the norms."""
WARM_UP = 0.03
"""Part of the training in which the learning rates climb."""

HELD_OUT_TOKENS = 1024
HELD_OUT_EVERY = 50
"""One run of that many tokens in so many is never trained on."""

END = "<|end|>"
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n\n{% endfor %}"
"""The model knows no roles: a conversation is to it a text that goes on."""


@dataclass(frozen=True)
class Result:
    """What the training reached; `held_out_loss` is in nats per token."""

    held_out_loss: float
    tokens_seen: int
    seconds: float


def ensure(out: Path, *, seconds: float = SECONDS) -> Path:
    """Train into `out` unless a finished model lies there; nothing half done ever gets its name."""
    with cache.default().locked("demo-model"):
        if out.is_dir():
            return out
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".training-", dir=out.parent) as unfinished:
            target = Path(unfinished) / "model"
            train(target, seconds=seconds)
            target.rename(out)
    return out


def train(out: Path, *, seconds: float) -> Result:
    """Gather text, make a tokenizer, train for `seconds` and write a Hugging Face folder."""
    torch.manual_seed(0)
    with step("Gathering English text") as current:
        texts = gather_texts()
        current.detail = f"{sum(map(len, texts)):,} characters"
    with step("Making the tokenizer"):
        tokenizer = make_tokenizer(texts)
    learn, test = split(tokens_of(texts, tokenizer))
    model = LlamaForCausalLM(configuration(tokenizer))
    with step("Training") as current:
        result = fit(model, learn, test, seconds=seconds, current=current)
    save(out, model, tokenizer, result)
    return result


def gather_texts() -> list[str]:
    """The corpus.

    Raises:
        Refusal: there is too little of it here.
    """
    texts = list(corpus.documents())
    if (found := sum(map(len, texts))) < FEWEST_CHARACTERS:
        raise Refusal(
            f"Only {found:,} characters of English are here to train on, of {FEWEST_CHARACTERS:,}: "
            "run `make setup`, which installs the package that carries the book."
        )
    return texts


def make_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE of `VOCABULARY` entries learnt from `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def configuration(tokenizer: Tokenizer) -> LlamaConfig:
    """Six layers of 192, four query heads on two KV heads of 64."""
    end = tokenizer.token_to_id(END)
    return LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=None,
    )


def tokens_of(texts: list[str], tokenizer: Tokenizer) -> Tensor:
    """All texts in one row of tokens, an end after each."""
    end = tokenizer.token_to_id(END)
    encoded = tokenizer.encode_batch(texts)
    return torch.tensor([token for text in encoded for token in (*text.ids, end)])


def split(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens to learn from, in one row, and tokens held out [runs, HELD_OUT_TOKENS]."""
    runs = tokens.split(HELD_OUT_TOKENS)[:-1]
    held_out = runs[HELD_OUT_EVERY // 2 :: HELD_OUT_EVERY]
    learn = [run for n, run in enumerate(runs) if n % HELD_OUT_EVERY != HELD_OUT_EVERY // 2]
    return torch.cat(learn), torch.stack(held_out)


def fit(
    model: LlamaForCausalLM, learn: Tensor, test: Tensor, *, seconds: float, current: Step
) -> Result:
    """Train under a cosine until the time or the tokens are used up; returns what was reached."""
    dtype, optimizers = faster_dtype(), make_optimizers(model)
    started, seen = time.monotonic(), 0
    model.train()
    while (done := max((time.monotonic() - started) / seconds, seen / TOKENS)) < 1:
        loss = next_token_loss(model, sample(learn, length=length_at(done)), dtype)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * rate_at(done)
            optimizer.step()
            optimizer.zero_grad()
        seen += BATCH_TOKENS
        current.detail = f"{done:.0%}, loss {loss.item():.2f}"
    reached = held_out_loss(model, test, dtype)
    current.detail = f"{seen / 1e6:.2f} million tokens, held-out loss {reached:.2f}"
    return Result(reached, seen, round(time.monotonic() - started, 1))


def make_optimizers(model: LlamaForCausalLM) -> tuple[torch.optim.Optimizer, ...]:
    """Muon for the layers' matrices, which learn in fewer steps with it; AdamW for the rest."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = set(matrices)
    others = [p for p in model.parameters() if p not in chosen]
    return (
        torch.optim.Muon([{"params": matrices, "peak": MATRIX_RATE}], weight_decay=0.1),
        torch.optim.AdamW([{"params": others, "peak": VECTOR_RATE}], betas=(0.9, 0.95), fused=True),
    )


def faster_dtype() -> torch.dtype:
    """The type in which this machine multiplies faster, measured: bf16 or fp32."""
    return min((torch.bfloat16, torch.float32), key=_seconds_of_a_product)


def length_at(done: float) -> int:
    """Tokens of a sequence when a part `done` of the training is over."""
    return max(length for start, length in LENGTHS if done >= start)


def rate_at(done: float) -> float:
    """The learning rate as a part of its peak: a short climb, then a cosine down to nothing."""
    return min(done / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)))


def sample(tokens: Tensor, *, length: int) -> Tensor:
    """[BATCH_TOKENS / length, length + 1] tokens from random places."""
    starts = torch.randint(len(tokens) - length, (BATCH_TOKENS // length,))
    return torch.stack([tokens[start : start + length + 1] for start in starts])


def next_token_loss(model: LlamaForCausalLM, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Mean cross-entropy in nats of each row's token given those before it; tokens [B, T + 1]."""
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        logits = model(tokens[:, :-1], use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, runs: Tensor, dtype: torch.dtype) -> float:
    """Mean loss in nats per token of runs [runs, tokens]."""
    model.eval()
    return next_token_loss(model, runs, dtype).item()


def save(out: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, result: Result) -> None:
    """Write config, weights in bf16, tokenizer with chat template, and how it was trained."""
    logging.disable_progress_bar()
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, top_p=0.9, eos_token_id=model.config.eos_token_id
    )
    model.bfloat16().save_pretrained(out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
    ).save_pretrained(out)
    (out / "training.json").write_text(json.dumps(vars(result), indent=1) + "\n")
    for path in (out, *out.iterdir()):  # pods read it as a user of their own
        path.chmod(0o755 if path.is_dir() else 0o644)


def _seconds_of_a_product(dtype: torch.dtype) -> float:
    left, right = torch.ones(2048, 256, dtype=dtype), torch.ones(256, 1024, dtype=dtype)
    return min(_timed_products(left, right))


def _timed_products(left: Tensor, right: Tensor) -> Iterator[float]:
    for _ in range(5):
        started = time.perf_counter()
        torch.mm(left, right)
        yield time.perf_counter() - started


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the model.")
@click.option("--seconds", default=SECONDS, show_default=True, help="Longest time to train.")
@click.option("--again", is_flag=True, help="Train even if a finished model is there.")
def main(out: Path | None, *, seconds: float, again: bool) -> None:
    """Train the demo's model, once: a finished one is kept."""
    target = out or folder()
    if again and target.is_dir():
        shutil.rmtree(target)
    click.echo(ensure(target, seconds=seconds))


if __name__ == "__main__":
    main()

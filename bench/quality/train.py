"""Trains the model that quality is measured on: `python -m bench.quality.train [--out DIR]`.

Three quarters of what it reads is English documentation, one quarter haystacks with needles, so
that at the end its long memory is worth measuring. AdamW, not a faster optimizer: it is what the
models that people serve were trained with, and outliers in the keys come from it. On an H100 it
takes six minutes; without a GPU, days.

Long memory comes suddenly or, in one of two trainings so far, not at all, for what a GPU rounds is
chance. A model without it is refused at the end.
"""

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from bench.quality import corpus
from bench.quality.llama import Llama, Shape, save
from bench.quality.measure import Sizes, material, recall
from bench.quality.recall import Needles, Tokens
from hack import cache
from hack.errors import Refusal
from hack.progress import Step, step

END = "<|end|>"
HELD_OUT_EVERY = 50
"""One document in so many is never trained on."""
TOKENIZER_DOCUMENT_EVERY = 4
MOST_FACTS = 64
TOKENS_OF_A_FACT = 256
"""Of the haystack in which a trained model looks for needles, to each of them."""
LEAST_RECALL = 0.9
"""Part of the needles that a model finds whose long memory is worth measuring."""
PEAK_RATE = 1.5e-3
WARM_UP = 0.03
"""Part of the training in which the learning rate climbs."""


@dataclass(frozen=True)
class Plan:
    """What is trained and for how long; the training ends when steps or seconds are used up."""

    shape: Shape = field(default_factory=Shape)
    rows: int = 16
    recall_rows: int = 4
    steps: int = 2600
    seconds: float = 300.0


def default_folder() -> Path:
    """Where the trained model lies unless told otherwise."""
    return cache.default().root / "models" / "quality"


def trained(folder: Path | None) -> Path:
    """`folder`, or the default one, in which the trained model lies.

    Raises:
        Refusal: none lies there.
    """
    folder = folder or default_folder()
    if not (folder / "model.safetensors").exists():
        raise Refusal(f"No model lies in {folder}: run `python -m bench.quality.train`.")
    return folder


def train(out: Path, texts: list[str], plan: Plan, device: torch.device, *, seed: int = 0) -> float:
    """Make a tokenizer, train and write a Hugging Face folder with held-out tokens beside it.

    Returns:
        the part of the needles that the model finds.
    """
    torch.manual_seed(seed)
    with step("Making the tokenizer"):
        tokenizer = make_tokenizer(texts, plan.shape.vocab_size)
    with step("Encoding the text"):
        learn, held_out = split(texts, tokenizer)
    model = Llama(plan.shape).to(device)
    started = time.monotonic()
    with step("Training") as current:
        loss = fit(model, Batches(learn, Needles(tokenizer), plan), plan, current)
    save(model, out)
    tokenizer.save(str(out / "tokenizer.json"))
    np.save(out / "held_out.npy", held_out.astype(np.uint16))
    with step("Looking for needles"):
        context = plan.shape.max_position_embeddings
        sizes = Sizes(sequences=1, context_tokens=context, facts=context // TOKENS_OF_A_FACT)
        found = recall(material(out, device, sizes), None)
    record = {
        "seed": seed,
        "recall": found,
        "train_tokens": len(learn),
        "last_loss": round(loss, 4),
        "seconds": round(time.monotonic() - started),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "plan": asdict(plan),
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    return found


def make_tokenizer(texts: list[str], entries: int) -> Tokenizer:
    """A byte-level BPE in which every digit is a token of its own."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=entries,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts[::TOKENIZER_DOCUMENT_EVERY], trainer)
    return tokenizer


def split(texts: list[str], tokenizer: Tokenizer) -> tuple[Tokens, Tokens]:
    """Tokens to learn from and tokens held out, a row each, an end after every document."""
    end = tokenizer.token_to_id(END)
    rows = [np.array([*text.ids, end]) for text in tokenizer.encode_batch(texts)]
    held_out = [row for n, row in enumerate(rows) if n % HELD_OUT_EVERY == HELD_OUT_EVERY // 2]
    learn = [row for n, row in enumerate(rows) if n % HELD_OUT_EVERY != HELD_OUT_EVERY // 2]
    return np.concatenate(learn), np.concatenate(held_out)


class Batches(Dataset[Tensor]):
    """Batch number n of the training, ``[rows, context + 1]``: the same whoever asks for it."""

    def __init__(self, tokens: Tokens, needles: Needles, plan: Plan) -> None:
        self.tokens, self.needles, self.plan = tokens, needles, plan

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, number: int) -> Tensor:
        rng = np.random.default_rng(number)
        rows = [self._row(rng, recall=n < self.plan.recall_rows) for n in range(self.plan.rows)]
        return torch.from_numpy(np.stack(rows))

    def _row(self, rng: np.random.Generator, *, recall: bool) -> Tokens:
        length = self.plan.shape.max_position_embeddings + 1
        start = rng.integers(len(self.tokens) - length)
        prose = self.tokens[start : start + length]
        if not recall:
            return prose
        most = min(MOST_FACTS, length // 64)  # facts and questions fill half of it at most
        facts = round(most ** rng.random())
        return self.needles.haystack(prose, length=length, facts=facts, rng=rng).tokens


def fit(model: Llama, batches: Batches, plan: Plan, current: Step) -> float:
    """Train under a cosine until the steps or the time are used up; returns the last loss."""
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    step_loss = torch.compile(next_token_loss) if device.type == "cuda" else next_token_loss
    started, loss = time.monotonic(), torch.zeros(())
    for number, tokens in enumerate(_loaded(batches, device)):
        done = max((time.monotonic() - started) / plan.seconds, number / plan.steps)
        if done >= 1:
            break
        optimizer.param_groups[0]["lr"] = PEAK_RATE * rate_at(done)
        loss = step_loss(model, tokens)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if number % 100 == 0:
            current.detail = f"step {number}, {done:.0%}, loss {loss.item():.3f}"
    return loss.item()


def _loaded(batches: Batches, device: torch.device) -> Iterator[Tensor]:
    workers = min(8, (os.cpu_count() or 2) - 2)
    loader = DataLoader(batches, batch_size=None, num_workers=workers)
    for tokens in loader:
        yield tokens.to(device, non_blocking=True)


def rate_at(done: float) -> float:
    """The learning rate as a part of its peak: a short climb, then a cosine down to nothing."""
    return min(done / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * min(done, 1.0)))


def next_token_loss(model: Llama, tokens: Tensor) -> Tensor:
    """Mean cross-entropy in nats of each row's token given those before it; tokens [B, T + 1]."""
    with torch.autocast(tokens.device.type, torch.bfloat16):
        logits = model(tokens[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten())


def check_recall(found: float, seed: int) -> None:
    """Refuse a model that finds too few needles.

    Raises:
        Refusal: with the part that it finds.
    """
    if found < LEAST_RECALL:
        raise Refusal(
            f"The model finds {found:.0%} of the needles, too few to measure what a format loses:"
            f" train it again with --seed {seed + 1}."
        )


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=None, help="The folder to write.")
@click.option("--corpus", "text", type=click.Path(path_type=Path), default=None)
@click.option("--seconds", default=Plan.seconds, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the weights that it begins with.")
def main(out: Path | None, text: Path | None, seconds: float, seed: int) -> None:
    """Train the quality model, on the GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")
    with step("Gathering text"):
        texts = corpus.read(corpus.ensure(text or corpus.default_path()))
    found = train(out or default_folder(), texts, Plan(seconds=seconds), device, seed=seed)
    check_recall(found, seed)


if __name__ == "__main__":
    main()

"""Exactness on a GPU: `python -m bench.exactness [PART…] [--json FILE]`, with a real vLLM.

What the tests show on a CPU, once more with compiled kernels. *raw*: tiles in float32 must give
the tokens that Hugging Face's attention ranks first. *deep*, *shallow*: under a quantised format
and ``VLLM_BATCH_INVARIANT=1``, which makes vLLM's own operations independent of the batch, tokens
and their log-probabilities must not depend on the schedule by a single bit. The models are random;
the shallow one's open tiles are larger than its packed pages. Each part has a process of its own,
because that variable changes vLLM's products for good, and not for the better in float32.

The status is 1 if something differs.
"""

import gc
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
import vllm
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

MARK = "VERDICT "
VOCABULARY = 512
TOKENS = 140
DEEP, SHALLOW = 8, 2
SHARED = 300
TAILS = (27, 100, 212, 340, 500, 84)
ALONE = (127, 128, 129, 600)

ENGINE: Mapping[str, Any] = {
    "skip_tokenizer_init": True,
    "max_model_len": 2048,
    "max_num_seqs": 16,
    "gpu_memory_utilization": 0.3,
    "enforce_eager": True,
    "enable_prefix_caching": False,
}
CHUNKED: Mapping[str, Any] = {"max_num_batched_tokens": 192}

Prompts = Sequence[list[int]]


@dataclass(frozen=True)
class Answer:
    """What a model wrote to a prompt: tokens, and their log-probabilities."""

    tokens: list[int]
    surety: list[float]


@dataclass(frozen=True)
class Verdict:
    """Two runs compared.

    Attributes:
        name: what must be equal to what.
        tokens: how many were compared.
        differing: how many of them differ.
        largest: difference between log-probabilities of equal tokens, in nats.
        allowed: how large that may be.
    """

    name: str
    tokens: int
    differing: int
    largest: float
    allowed: float

    @property
    def holds(self) -> bool:
        """Whether nothing differs by more than it may."""
        return self.differing == 0 and self.largest <= self.allowed


def prompts() -> Prompts:
    """Some that begin alike, and some that end beside the border of a tile."""
    words = random.Random(0)

    def some(count: int) -> list[int]:
        return words.choices(range(1, VOCABULARY), k=count)

    shared = some(SHARED)
    return [*(shared + some(length) for length in TAILS), *map(some, ALONE)]


def write_model(folder: Path, layers: int) -> Any:
    """A random model on disk and in memory."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        max_position_embeddings=4096,
        initializer_range=0.08,
    )
    model: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    return model.float().eval()


def with_engine(
    folder: Path, cache_format: str, work: Callable[[LLM], list[list[Answer]]], **options: Any
) -> list[list[Answer]]:
    """What some work with a vLLM gives; the vLLM is gone afterwards, and nobody may keep it."""
    llm = LLM(str(folder), kv_cache_dtype=cache_format, **{**ENGINE, **options})
    given = work(llm)
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    return given


def once(llm: LLM) -> list[list[Answer]]:
    """All prompts at once."""
    return [answers(llm, prompts())]


def together_and_alone(llm: LLM) -> list[list[Answer]]:
    """All prompts at once, and one after the other."""
    alone = [answers(llm, [prompt])[0] for prompt in prompts()]
    return [answers(llm, prompts()), alone]


def after_two(llm: LLM) -> list[list[Answer]]:
    """All prompts at once, when the first two have been answered before."""
    answers(llm, prompts()[:2])
    return once(llm)


def answers(llm: LLM, asked: Prompts) -> list[Answer]:
    """Greedy answers to prompts that are submitted at once."""
    wanted = SamplingParams(
        temperature=0, max_tokens=TOKENS, ignore_eos=True, detokenize=False, logprobs=1
    )
    given = [{"prompt_token_ids": prompt} for prompt in asked]
    outputs = [done.outputs[0] for done in llm.generate(given, wanted, use_tqdm=False)]
    return [
        Answer(
            list(output.token_ids),
            [
                place[token].logprob
                for place, token in zip(output.logprobs, output.token_ids, strict=True)
            ],
        )
        for output in outputs
    ]


@torch.no_grad()
def ranked_first(model: Any, asked: Prompts, given: Sequence[Answer]) -> list[Answer]:
    """What the model itself ranks first at each place of the answers, in float32."""
    torch.backends.cuda.matmul.allow_tf32 = False
    ranked = []
    for prompt, answer in zip(asked, given, strict=True):
        whole = torch.tensor([prompt + answer.tokens], device=model.device)
        sure = model(whole).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        chosen = sure.gather(1, torch.tensor(answer.tokens, device=model.device)[:, None])
        ranked.append(Answer(sure.argmax(-1).tolist(), chosen[:, 0].tolist()))
    return ranked


def compare(
    name: str, one: Sequence[Answer], other: Sequence[Answer], *, allowed: float = 0.0
) -> Verdict:
    """Set two runs of the same prompts side by side."""
    pairs = [
        (left, right, sure, surer)
        for first, second in zip(one, other, strict=True)
        for left, right, sure, surer in zip(
            first.tokens, second.tokens, first.surety, second.surety, strict=True
        )
    ]
    equal = [abs(sure - surer) for left, right, sure, surer in pairs if left == right]
    return Verdict(name, len(pairs), len(pairs) - len(equal), max(equal, default=0.0), allowed)


def raw_tiles(folder: Path) -> Iterator[Verdict]:
    """Raw tiles against Hugging Face, whole prompts and chunks."""
    model = write_model(folder, DEEP).cuda()
    for name, options in {"whole prompts": {}, "chunks of 192": CHUNKED}.items():
        (given,) = with_engine(folder, "kvarn_raw_g128", once, dtype="float32", **options)
        ranked = ranked_first(model, prompts(), given)
        yield compare(f"raw tiles, {name}, against Hugging Face", given, ranked, allowed=1e-3)


def quantised(folder: Path, layers: int, cache_format: str) -> Iterator[Verdict]:
    """A quantised cache against itself under other schedules."""
    write_model(folder, layers)
    about = f"{cache_format}, {layers} layers"

    def run(work: Callable[[LLM], list[list[Answer]]], **options: Any) -> list[list[Answer]]:
        return with_engine(folder, cache_format, work, dtype="bfloat16", **options)

    together, alone = run(together_and_alone)
    yield compare(f"{about}: a batch against each alone", together, alone)
    yield compare(f"{about}: chunks", together, *run(once, **CHUNKED))
    yield compare(
        f"{about}: from cached prefixes", together, *run(after_two, enable_prefix_caching=True)
    )
    graphs, alone = run(together_and_alone, enforce_eager=False)
    yield compare(f"{about}: CUDA graphs, a batch against each alone", graphs, alone)


PARTS: Mapping[str, Callable[[Path], Iterator[Verdict]]] = {
    "raw": raw_tiles,
    "deep": partial(quantised, layers=DEEP, cache_format="kvarn_k4v2_g128"),
    "shallow": partial(quantised, layers=SHALLOW, cache_format="kvarn_k3v3_g128"),
}


def in_own_process(part: str) -> Iterator[Verdict]:
    """Verdicts of a part, as they come."""
    code = f"from bench.exactness import report; report({part!r})"
    environment = os.environ | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_BATCH_INVARIANT": str(int(part != "raw")),
    }
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        for line in running.stdout:
            if line.startswith(MARK):
                yield Verdict(**json.loads(line.removeprefix(MARK)))
    if running.returncode:
        raise click.ClickException(f"The part {part} ended with status {running.returncode}.")


def report(part: str) -> None:
    """Print the verdicts of a part, each on a line with a mark, beside what vLLM prints."""
    with tempfile.TemporaryDirectory() as folder:
        for verdict in PARTS[part](Path(folder)):
            print(MARK + json.dumps(asdict(verdict)), flush=True)


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write a record there.")
def main(parts: Sequence[str], file: Path | None) -> None:
    """Compare runs token for token; the status is 1 if something differs."""
    found: list[Verdict] = []
    for part in parts or PARTS:
        for verdict in in_own_process(part):
            click.echo(f"{verdict.name}: {'equal' if verdict.holds else 'DIFFERS'}", err=True)
            found.append(verdict)
            if file:
                file.write_text(_record(found))
    _print(found)
    raise SystemExit(not all(verdict.holds for verdict in found))


def _record(found: Sequence[Verdict]) -> str:
    about = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "vllm": vllm.__version__,
    }
    rows = [{**asdict(verdict), "holds": verdict.holds} for verdict in found]
    return json.dumps({**about, "runs": rows}, indent=1) + "\n"


def _print(found: Sequence[Verdict]) -> None:
    table = Table("runs", "tokens", "differ", "largest |Δ log p|", "")
    for verdict in found:
        row = (verdict.name, str(verdict.tokens), str(verdict.differing), f"{verdict.largest:.1e}")
        table.add_row(*row, "equal" if verdict.holds else "DIFFERS")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()

"""One part in this process: `python -m bench.exactness.child PART`.

Each verdict is printed as soon as it is known, on a line with a mark among what vLLM prints.
"""

import gc
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import LlamaConfig, LlamaForCausalLM
from vllm import LLM, SamplingParams
from vllm.distributed import cleanup_dist_env_and_memory

from bench.exactness.process import MARK
from bench.exactness.verdict import Answer, Verdict, compare
from kvarn.engine.plugin import register
from kvarn.kernels.select import kernels_for

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VOCABULARY = 512
TOKENS = 140
DEEP, SHALLOW = 8, 2
SHARED = 300
WRONG = 3.0
"""Nats by which a wrong token is less likely at least."""
TIMES = 2.0
"""What other kernels may add to what rounding makes: the largest of some thousand differences."""
TAILS = (27, 100, 212, 340, 500, 84)
ALONE = (127, 128, 129, 600)

ENGINE: Mapping[str, Any] = {
    "skip_tokenizer_init": True,
    "max_model_len": 2048,
    "max_num_seqs": 16,
    "gpu_memory_utilization": 0.2,
    "kv_cache_memory_bytes": 2 << 30,  # or parts side by side would measure each other's memory
    "enforce_eager": True,
    "enable_prefix_caching": False,
}
CHUNKED: Mapping[str, Any] = {"max_num_batched_tokens": 192}

Prompts = Sequence[list[int]]


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


def raw_tiles(folder: Path) -> Iterator[Verdict]:
    """Raw tiles against Hugging Face, whole prompts and chunks."""
    model = write_model(folder, DEEP).to(DEVICE)
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


def forced(llm: LLM, given: Sequence[Answer]) -> list[list[Answer]]:
    """How likely answers are to it, each as the rest of its prompt."""
    wanted = SamplingParams(temperature=0, max_tokens=1, detokenize=False, prompt_logprobs=0)
    asked = [prompt + answer.tokens for prompt, answer in zip(prompts(), given, strict=True)]
    outputs = llm.generate([{"prompt_token_ids": each} for each in asked], wanted, use_tqdm=False)
    return [
        [
            Answer(
                answer.tokens,
                [
                    place[token].logprob
                    for place, token in zip(
                        output.prompt_logprobs[-len(answer.tokens) :], answer.tokens, strict=True
                    )
                ],
            )
            for answer, output in zip(given, outputs, strict=True)
        ]
    ]


def fast(folder: Path) -> Iterator[Verdict]:
    """The fastest kernels, judged by those whose results do not depend on the batch.

    How much rounding makes of an answer as it was written and as it is read, in bfloat16 and eight
    layers deep, is seen where the judge has written it too.
    """
    write_model(folder, DEEP)
    portable = kernels_for(DEVICE, batch_invariant=True)
    judge = patch("kvarn.engine.backend.kernels", lambda: portable)
    eager = DEVICE == "cpu"
    for cache_format in ("kvarn_k4v2_g128", "kvarn_k3v3_g128"):
        about = f"{cache_format}, {DEEP} layers"
        run = partial(with_engine, folder, cache_format, dtype="bfloat16")
        with judge:
            (own,) = run(once, enforce_eager=eager)
            (again,) = run(partial(forced, given=own))
        rounding = compare(f"{about}: what rounding makes", own, again, allowed=WRONG)
        yield rounding
        (given,) = run(once, enforce_eager=eager)
        with judge:
            (again,) = run(partial(forced, given=given))
        allowed = TIMES * rounding.largest
        yield compare(f"{about}: fast kernels", given, again, allowed=allowed)


PARTS: Mapping[str, Callable[[Path], Iterator[Verdict]]] = {
    "raw": raw_tiles,
    "fast": fast,
    "deep": partial(quantised, layers=DEEP, cache_format="kvarn_k4v2_g128"),
    "shallow": partial(quantised, layers=SHALLOW, cache_format="kvarn_k3v3_g128"),
}


def report(part: str) -> None:
    """Print the verdicts of a part."""
    with tempfile.TemporaryDirectory() as folder:
        for verdict in PARTS[part](Path(folder)):
            print(MARK + json.dumps(asdict(verdict)), flush=True)


if __name__ == "__main__":
    register()  # whether or not the package is installed
    report(sys.argv[1])

"""Many mixed requests at once, each answered as in a run of its own."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.engine.mixture import Request, cut, mixture
from tests.engine.prompts import K4V2
from tests.engine.served import Launched, launched, metric

pytestmark = pytest.mark.serving

REQUESTS = mixture(120)
TIGHT = {"num_gpu_blocks_override": 40, "max_num_batched_tokens": 320}
"""Blocks for three to eight sequences; prompts of up to 700 tokens come in chunks."""


@pytest.fixture(scope="module")
def answers(generate: Callable[..., dict[str, Any]]) -> list[list[int]]:
    """What each request is answered in a roomy pool that remembers no prefix."""
    longest = max(request.tokens for request in REQUESTS)
    prompts = [request.prompt for request in REQUESTS]
    (whole,) = generate([prompts], tokens=longest, max_num_seqs=24, **K4V2)["tokens"]
    return [answer[: request.tokens] for answer, request in zip(whole, REQUESTS, strict=True)]


def test_a_mixture_in_a_tight_and_poisoned_pool(
    host: Any, tiny_model: Callable[..., str], answers: list[list[int]]
) -> None:
    """No page that was freed is read, and block 0 is not written: all of them hold NaNs."""
    options = {"enable_prefix_caching": True, **TIGHT, **K4V2}
    served = host.call("serve_mixture", model=tiny_model(), options=options, requests=REQUESTS)
    assert served["preemptions"] > 0
    assert served["cached"] > 0
    assert served["poisoned"] > 0
    assert served["untouched"]
    assert served["tokens"] == cut(answers, REQUESTS)


@pytest.fixture(scope="module")
def server(
    release: str, tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]
) -> Iterator[Launched]:
    tight = [f"--{name.replace('_', '-')}={value}" for name, value in TIGHT.items()]
    options = ("--dtype", "float32", "--max-model-len", "2048", *tight)
    memory = ("--kv-cache-memory-bytes", str(256 << 20))
    folder = tmp_path_factory.mktemp("stressed")
    with launched(release, folder, tiny_model(), *options, *memory) as started:
        started.wait_until_ready()
        yield started


def test_a_mixture_through_the_openai_server(server: Launched, answers: list[list[int]]) -> None:
    """Half of the answers are streamed; those who give up hang up on the server."""
    with httpx.Client(base_url=server.url, timeout=300) as client, ThreadPoolExecutor(24) as pool:
        heard = list(pool.map(lambda request: _ask(client, request), REQUESTS))
        assert metric(client, "vllm:num_preemptions_total") > 0
    assert heard == cut(answers, REQUESTS)


def _ask(client: httpx.Client, request: Request) -> list[int]:
    asked = {
        "model": "demo",
        "prompt": request.prompt,
        "max_tokens": request.tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    if request.tokens % 2 and request.given_up_after is None:
        (choice,) = client.post("/v1/completions", json=asked).json()["choices"]
        return list(choice["token_ids"])
    return _listen(client, asked | {"stream": True}, at_most=request.given_up_after)


def _listen(client: httpx.Client, asked: dict[str, Any], *, at_most: int | None) -> list[int]:
    heard: list[int] = []
    with client.stream("POST", "/v1/completions", json=asked) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                heard += json.loads(line[6:])["choices"][0]["token_ids"]
            if at_most is not None and len(heard) >= at_most:
                return heard[:at_most]
    return heard

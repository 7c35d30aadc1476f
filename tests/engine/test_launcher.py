"""The launcher serves, drains, and says why a start failed."""

import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.engine.lanes import once
from tests.engine.served import Launched, launched, metric, until

pytestmark = pytest.mark.serving

ASKED = {"model": "demo", "prompt": "The cache holds", "max_tokens": 12, "temperature": 0}
SMALL = ("--max-model-len", "2048", "--kv-cache-memory-bytes", "67108864")
LONG_TOKENS = 600
"""An answer that is not over before a busy machine has looked whether it runs."""


@pytest.fixture(scope="module")
def server(
    release: str, tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., str]
) -> Iterator[Launched]:
    options = (*SMALL, "--shutdown-timeout", "3600")
    folder = tmp_path_factory.mktemp("served")
    # Longer than any test waits: the server must end because it has drained.
    with launched(release, folder, tiny_model(), *options) as started:
        started.wait_until_ready()
        yield started


@pytest.fixture(scope="module")
def client(server: Launched) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as open_client:
        yield open_client


def test_a_completion_streams_the_text_that_it_gives_at_once(client: httpx.Client) -> None:
    whole = client.post("/v1/completions", json=ASKED).json()["choices"][0]["text"]
    streamed = client.post("/v1/completions", json=ASKED | {"stream": True})
    events = [line[6:] for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert whole
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events) == whole


def test_the_metrics_name_the_format(client: httpx.Client) -> None:
    assert 'cache_dtype="kvarn_k4v2_g128"' in client.get("/metrics").text


def test_the_model_has_its_served_name(client: httpx.Client) -> None:
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["max_model_len"]) == ("demo", 2048)


def test_a_drain_finishes_what_runs(server: Launched, client: httpx.Client) -> None:
    """The last test of this server, which ends."""
    asked = ASKED | {"max_tokens": LONG_TOKENS, "ignore_eos": True}
    with ThreadPoolExecutor(6) as pool:
        requests = [pool.submit(client.post, "/v1/completions", json=asked) for _ in range(6)]
        until(lambda: metric(client, "vllm:num_requests_running") == 6, seconds=30)
        server.process.send_signal(signal.SIGTERM)
        answers = [request.result() for request in requests]
    assert [answer.status_code for answer in answers] == [200] * 6
    assert {answer.json()["usage"]["completion_tokens"] for answer in answers} == {LONG_TOKENS}
    assert server.process.wait(60) == 0
    assert server.message.read_text() == ""


def test_a_server_that_still_loads_ends_when_told_to(
    release: str, tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    """By itself vLLM 0.32 loses the signal, and serves until the kubelet's patience ends."""
    options = (*SMALL, "--shutdown-timeout", "3600")
    with launched(release, tmp_path, tiny_model(), *options) as loading:
        until(lambda: "EngineCore" in loading.log.read_text(), seconds=120)
        loading.process.send_signal(signal.SIGTERM)
        loading.process.wait(60)
    assert loading.message.read_text() == ""


def test_a_context_that_does_not_fit_is_reported_with_what_would(
    release: str, tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    options = ("--max-model-len", "4096", "--kv-cache-memory-bytes", "1048576")
    with launched(release, tmp_path, tiny_model(), *options) as failed:
        assert failed.process.wait(120) != 0
    said = json.loads(failed.message.read_text())
    assert said["reason"] == "ContextTooLong"
    assert said["numbers"]["asked_tokens"] == 4096
    assert 0 < said["numbers"]["feasible_tokens"] < 4096
    assert str(said["numbers"]["feasible_tokens"]) in said["message"]


@once
def test_a_refusal_is_reported_in_its_own_words(
    release: str, tmp_path: Path, tiny_model: Callable[..., str]
) -> None:
    with launched(release, tmp_path, tiny_model(), "--block-size", "64") as failed:
        assert failed.process.wait(120) != 0
    assert json.loads(failed.message.read_text()) == {
        "reason": "Unsupported",
        "message": "kvarn_k4v2_g128 needs blocks of 128 tokens; leave out --block-size 64.",
        "numbers": {},
    }

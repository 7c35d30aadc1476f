"""The load generator counts every request, and a broken one never as good."""

import ast
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from demo import load
from demo.load import Client, Load, Summary, percentiles

Answer = Callable[[web.StreamResponse], Awaitable[None]]


def chunk(text: str, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": finish_reason}
    return f"data: {json.dumps({'choices': [choice]})}\n\n".encode()


USAGE = b'data: {"choices": [], "usage": {"completion_tokens": 2}}\n\n'
DONE = b"data: [DONE]\n\n"


@asynccontextmanager
async def server(*parts: bytes, status: int = 200, cut: bool = False) -> AsyncIterator[str]:
    """A server that answers every completion with these parts; its base URL."""

    async def complete(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        if cut and request.transport:
            request.transport.abort()
        return response

    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    async with TestServer(app) as running:
        yield str(running.make_url("/")).rstrip("/")


async def outcome_of_one(url: str) -> Summary:
    """What one request to `url` came to."""
    client = Client(Load(url=url, model="demo", concurrency=1))
    running = asyncio.create_task(client.run())
    while client.tally.ok + client.tally.failed == 0:
        await asyncio.sleep(0)
    client.stop.set()
    return await running


async def test_a_whole_stream_is_good_and_its_tokens_are_counted():
    async with server(chunk("the"), chunk(" sun", "length"), USAGE, DONE) as url:
        summary = await outcome_of_one(url)
    assert summary.failed == 0
    assert summary.output_tokens == 2 * summary.ok
    assert summary.first_token_seconds["p50"] > 0


BROKEN = [
    pytest.param({"parts": (chunk("the"),), "cut": True}, "Client", id="connection lost"),
    pytest.param({"parts": (chunk("the"),)}, "broke off", id="ends early"),
    pytest.param({"parts": (chunk("the", "abort"), DONE)}, "'abort'", id="aborted"),
    pytest.param({"parts": (chunk("the"), DONE)}, "no finish_reason", id="no reason"),
    pytest.param({"parts": (b"no room",), "status": 503}, "status 503: no room", id="503"),
    pytest.param({"parts": (b'data: {"error": {"message": "x"}}\n\n',)}, "stream: x", id="error"),
]


@pytest.mark.parametrize(("answer", "why"), BROKEN)
async def test_a_broken_request_is_failed_and_says_why(answer: dict, why: str):
    async with server(*answer.pop("parts"), **answer) as url:
        summary = await outcome_of_one(url)
    assert summary.ok == 0
    assert summary.failed == summary.sent == 1
    assert why in next(iter(summary.failures))


async def test_a_refused_connection_is_failed(unused_tcp_port_factory):
    summary = await outcome_of_one(f"http://127.0.0.1:{unused_tcp_port_factory()}")
    assert summary.failed == 1


async def test_stopping_waits_for_what_is_under_way():
    """Everything that was sent has come to an end when the summary is there."""
    async with server(chunk("the", "stop"), USAGE, DONE) as url:
        summary = await Client(Load(url=url, model="demo", rate=50, seconds=0.2)).run()
    assert summary.sent > 1
    assert summary.ok == summary.sent


def test_prompts_share_no_prefix():
    """Else the server's prefix cache would answer a part of them."""
    load = Load(url="", model="demo")
    assert load.body(1)["prompt"][:2] != load.body(2)["prompt"][:2]


def test_it_runs_alone():
    """A pod has the script and aiohttp, nothing else of this project."""
    tree = ast.parse(Path(load.__file__).read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in imports}
    outside = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert outside == {"aiohttp"}


def test_percentiles_of_few_values():
    assert percentiles([]) == {}
    assert percentiles([2.0]) == {"p50": 2.0, "p95": 2.0, "p99": 2.0}

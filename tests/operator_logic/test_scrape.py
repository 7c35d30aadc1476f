"""Pages of metrics: read from real ones, and from servers that mean no good."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path

import pytest
from aiohttp import web

from kvarn_operator import scrape
from kvarn_operator.scrape import CONCURRENT, TIMEOUT_SECONDS, Sample, ScrapeError, Scraper

PAGE = (Path(__file__).parent / "vllm-metrics.txt").read_text()
"""Part of what a vLLM 0.32 server with a KVarN cache said: 4 running, 2 waiting."""


def test_a_real_page_is_understood() -> None:
    sample = Sample.parse(PAGE)

    assert (sample.running, sample.waiting, sample.finished) == (4, 2, 1)
    assert sample.usage == pytest.approx(0.00165, abs=1e-5)
    assert (sample.cache_tokens, sample.cache_bytes) == (1677721, 1 << 30)
    assert not sample.asleep


def test_what_is_deferred_does_not_wait_for_capacity() -> None:
    page = PAGE.replace('reason="deferred"} 0.0', 'reason="deferred"} 7.0')

    assert Sample.parse(page).waiting == 2


def test_a_sleeping_engine_is_told_from_an_idle_one() -> None:
    page = PAGE.replace('"awake"} 1.0', '"awake"} 0.0').replace(
        '"discard_all"} 0.0', '"discard_all"} 1.0'
    )

    assert Sample.parse(page).asleep


def test_engines_of_one_server_are_taken_together() -> None:
    second = "\n".join(
        line.replace('engine="0"', 'engine="1"')
        for line in PAGE.splitlines()
        if not line.startswith("#")
    )

    assert Sample.parse(f"{PAGE}{second}\n").running == 8


@pytest.mark.parametrize("digits", [5000, 400, 19])
def test_a_size_that_no_cache_has_is_not_stated(digits: int) -> None:
    page = PAGE.replace('"1677721"', f'"{"9" * digits}"')

    assert page != PAGE
    assert Sample.parse(page).cache_tokens == 0


def test_what_prompts_took_is_read_in_full() -> None:
    sample = Sample.parse(PAGE)

    assert (sample.first_tokens, sample.prompt_tokens, sample.computed_tokens) == (5, 3600, 1040)
    assert (sample.prefilled_tokens, sample.queued) == (720, 1)
    assert sample.prefill_seconds == pytest.approx(0.116, abs=1e-3)


def test_older_releases_are_read_by_their_own_names() -> None:
    """Why a request waits, and where tokens came from, was not always told."""
    page = PAGE.replace("vllm:num_requests_waiting_by_reason", "vllm:something_else").replace(
        "vllm:prompt_tokens_by_source", "vllm:another"
    )
    oldest = page.replace("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")

    for sample in map(Sample.parse, (page, oldest)):
        assert (sample.running, sample.waiting, sample.computed_tokens) == (4, 2, 3600)


def claims(name: str, value: str) -> str:
    """The page with another value for a metric."""
    return "\n".join(
        f"{line.rsplit(' ', 1)[0]} {value}" if line.startswith(name) else line
        for line in PAGE.splitlines()
    )


@pytest.mark.parametrize(
    "page",
    [
        claims("vllm:num_requests_waiting_by_reason", "1e15"),
        claims("vllm:num_requests_running", "-4"),
        claims("vllm:num_preemptions_total", "-1"),
        claims("vllm:request_queue_time_seconds_sum", "+Inf"),
        PAGE + 'vllm:num_requests_running{engine="9"} 1\n' * (scrape.MOST_SERIES + 1),
        PAGE + f'vllm:cache_config_info{{x="{"y" * scrape.LONGEST_LINE}"}} 1\n',
    ],
    ids=["crowd", "negative", "counter below zero", "infinite", "too many series", "long line"],
)
def test_lies_are_an_error_and_never_a_sample(page: str) -> None:
    with pytest.raises(ScrapeError):
        Sample.parse(page)


@pytest.mark.parametrize(
    "page",
    [
        "",
        "<html>",
        PAGE.replace(
            'num_requests_running{engine="0",model_name="tiny"} 4.0',
            'num_requests_running{engine="0",model_name="tiny"} NaN',
        ),
        PAGE.replace("usage_perc{", "usage_perc{{"),
        PAGE.replace(
            'usage_perc{engine="0",model_name="tiny"} 0',
            'usage_perc{engine="0",model_name="tiny"} 7',
        ),
        PAGE.replace(
            'usage_perc{engine="0",model_name="tiny"} 0',
            'usage_perc{engine="0",model_name="tiny"} -7',
        ),
    ],
    ids=["empty", "html", "nan", "broken", "above one", "below zero"],
)
def test_nonsense_is_an_error_and_never_a_sample(page: str) -> None:
    with pytest.raises(ScrapeError):
        Sample.parse(page)


Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(answers: dict[str, Answer]) -> AsyncIterator[Scraper]:
    """A scraper of servers that answer by loopback address."""

    async def dispatch(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        return await answers[request.transport.get_extra_info("sockname")[0]](request)

    application = web.Application()
    application.router.add_get("/metrics", dispatch)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    async with Scraper.connect(port=runner.addresses[0][1]) as scraper:
        yield scraper
    await runner.cleanup()


async def good(_request: web.Request) -> web.Response:
    return web.Response(text=PAGE)


async def slow(_request: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def endless(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b"#" * (1 << 16))


async def elsewhere(_request: web.Request) -> web.Response:
    raise web.HTTPFound("http://169.254.169.254/latest/meta-data")


async def test_slow_huge_and_hostile_servers_do_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scrape, "TIMEOUT_SECONDS", 0.5)
    addresses = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5", "127.0.0.6"]
    answers = dict(zip(addresses, [good, slow, endless, elsewhere], strict=False))
    began = time.monotonic()

    async with served(answers) as scraper:
        found = await scraper.read(addresses)

    assert [isinstance(each, Sample) for each in found] == [True, False, False, False, False]
    assert time.monotonic() - began < 3


async def test_silent_servers_of_many_resources_do_not_hold_up_those_of_another() -> None:
    """All that may be asked at once are, however many they are."""
    silent = [[f"127.0.{net}.{host}" for host in range(1, CONCURRENT + 1)] for net in (1, 2, 3)]
    asked, all_asked = set(), asyncio.Event()

    async def waits(request: web.Request) -> web.Response:
        asked.add(request.transport)
        if len(asked) == len(silent) * CONCURRENT:
            all_asked.set()
        return await slow(request)

    async with served({"127.0.0.2": good} | dict.fromkeys(chain(*silent), waits)) as scraper:
        reads = [asyncio.create_task(scraper.read(addresses)) for addresses in silent]
        await asyncio.wait_for(all_asked.wait(), TIMEOUT_SECONDS)
        (found,) = await scraper.read(["127.0.0.2"])
        for read in reads:
            read.cancel()

    assert isinstance(found, Sample)


async def test_a_large_deployment_is_read_whole() -> None:
    addresses = [f"127.0.1.{host}" for host in range(1, 151)]

    async with served(dict.fromkeys(addresses, good)) as scraper:
        found = await scraper.read(addresses)

    assert all(isinstance(each, Sample) for each in found)


async def test_a_server_that_is_not_there_is_an_error_of_its_own() -> None:
    async with Scraper.connect(port=1) as scraper:
        (found,) = await scraper.read(["127.0.0.9"])

    assert isinstance(found, ScrapeError)
    assert str(found)

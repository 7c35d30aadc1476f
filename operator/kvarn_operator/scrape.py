"""The pods' ``/metrics``: read side by side, bounded in time and size, parsed into samples."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_SECONDS = 3.0
LARGEST_BYTES = 4 << 20
MOST_SERIES = 4096
"""Lines of a page that are parsed; a vLLM with several engines has a few hundred such."""
LONGEST_LINE = 1 << 14
MOST_REQUESTS = 1 << 20
"""No server runs or queues so many: a page that says so lies."""
MOST_DIGITS = 18
"""Of a number that a cache can be large."""
CONCURRENT = 64
"""Pods of one resource that are read at once: pages in memory, and time if all are silent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How one generation of vLLM calls what is read here.

    Attributes:
        waiting_for: label values of `waiting` that mean a lack of capacity.
        computed_from: label values of `computed` that mean tokens not found in a cache.
    """

    usage: str = "vllm:kv_cache_usage_perc"
    running: str = "vllm:num_requests_running"
    waiting: str = "vllm:num_requests_waiting_by_reason"
    waiting_for: Mapping[str, str] = field(default_factory=lambda: {"reason": "capacity"})
    preemptions: str = "vllm:num_preemptions_total"
    rejections: str = "vllm:admission_rejections_total"
    finished: str = "vllm:request_success_total"
    first_tokens: str = "vllm:time_to_first_token_seconds_count"
    queued: str = "vllm:request_queue_time_seconds_count"
    queue_seconds: str = "vllm:request_queue_time_seconds_sum"
    prefill_seconds: str = "vllm:request_prefill_time_seconds_sum"
    prefilled: str = "vllm:request_prefill_kv_computed_tokens_sum"
    prompt: str = "vllm:prompt_tokens_total"
    computed: str = "vllm:prompt_tokens_by_source_total"
    computed_from: Mapping[str, str] = field(default_factory=lambda: {"source": "local_compute"})
    generated: str = "vllm:generation_tokens_total"
    sleep: str = "vllm:engine_sleep_state"
    cache: str = "vllm:cache_config_info"

    @property
    def series(self) -> tuple[str, ...]:
        """All names: what a line must start with to be worth parsing."""
        values = (getattr(self, each.name) for each in fields(self))
        return tuple(value for value in values if isinstance(value, str))

    @property
    def gauges(self) -> tuple[str, ...]:
        """What no page of this generation lacks."""
        return self.usage, self.running, self.waiting


VLLM = Names()
"""vLLM 0.32 and 0.33."""
VLLM_WITHOUT_REASONS = Names(
    waiting="vllm:num_requests_waiting",
    waiting_for={},
    computed="vllm:prompt_tokens_total",
    computed_from={},
)
"""vLLM from 0.10 on: why a request waits, and where its tokens came from, was not told."""
VLLM_GPU_CACHE = replace(VLLM_WITHOUT_REASONS, usage="vllm:gpu_cache_usage_perc")
"""vLLM before 0.10."""
GENERATIONS = (VLLM, VLLM_WITHOUT_REASONS, VLLM_GPU_CACHE)


class ScrapeError(Exception):
    """A page that cannot be had or makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one pod said at one time; what has no unit is a number of requests.

    Attributes:
        usage: share of the KV cache in use, 0 to 1.
        waiting: for capacity; those deferred for other reasons do not count.
        preemptions: since the server started, like all that follow but the cache's size.
        first_tokens: that have their first token.
        prompt_tokens: of their prompts.
        computed_tokens: of them, those that were not found in a cache.
        queued: that have ended.
        queue_seconds: that they had waited.
        prefill_seconds: from their admission to their first token.
        prefilled_tokens: computed within them.
        cache_tokens: what the cache holds; 0 if the page does not say.
        cache_bytes: its memory; 0 if the page does not say.
    """

    usage: float
    running: int
    waiting: int
    preemptions: int = 0
    rejections: int = 0
    finished: int = 0
    first_tokens: int = 0
    queued: int = 0
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    prefilled_tokens: int = 0
    prompt_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    asleep: bool = False
    cache_tokens: int = 0
    cache_bytes: int = 0

    @classmethod
    def parse(cls, page: str) -> Self:
        """The sample on a ``/metrics`` page; engines of one server are taken together.

        Raises:
            ScrapeError: it is no such page, or a gauge is missing or absurd.
        """
        found = _series(page)
        names = next((each for each in GENERATIONS if all(map(found.get, each.gauges))), None)
        if names is None:
            raise ScrapeError("the page has no vLLM gauges")
        usages = [value for _labels, value in found[names.usage]]
        sample = cls(
            usage=sum(usages) / len(usages),
            running=_count(found[names.running]),
            waiting=_count(found[names.waiting], names.waiting_for),
            preemptions=_count(found[names.preemptions]),
            rejections=_count(found[names.rejections]),
            finished=_count(found[names.finished]),
            first_tokens=_count(found[names.first_tokens]),
            queued=_count(found[names.queued]),
            queue_seconds=_total(found[names.queue_seconds]),
            prefill_seconds=_total(found[names.prefill_seconds]),
            prefilled_tokens=_count(found[names.prefilled]),
            prompt_tokens=_count(found[names.prompt]),
            computed_tokens=_count(found[names.computed], names.computed_from),
            generated_tokens=_count(found[names.generated]),
            asleep=_total(found[names.sleep]) > _total(found[names.sleep], _AWAKE),
            cache_tokens=_label(found[names.cache], "kv_cache_size_tokens"),
            cache_bytes=_label(found[names.cache], "kv_cache_memory_bytes"),
        )
        if not 0 <= sample.usage <= 1:
            raise ScrapeError(f"the page claims a cache usage of {sample.usage}")
        if max(sample.running, sample.waiting) > MOST_REQUESTS:
            raise ScrapeError(f"the page claims {sample.running} running requests")
        return sample


Series = list[tuple[Mapping[str, str], float]]

_AWAKE = {"sleep_state": "awake"}
_KNOWN = tuple(dict.fromkeys(name for names in GENERATIONS for name in names.series))


def _series(page: str) -> dict[str, Series]:
    """Values by name; only lines that matter are parsed, as a page has thousands.

    A parser that is given millions of lines, or one of a megabyte, would hold up everything else.
    """
    found: dict[str, Series] = {name: [] for name in _KNOWN}
    lines = [line for line in page.splitlines() if line.startswith(_KNOWN)]
    if len(lines) > MOST_SERIES or any(len(line) > LONGEST_LINE for line in lines):
        raise ScrapeError(f"the page has more than {MOST_SERIES} series, or one that is too long")
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                if sample.name in found:
                    found[sample.name].append((sample.labels, sample.value))
    except ValueError as error:
        raise ScrapeError(f"the page cannot be parsed: {error}") from error
    return found


def _total(series: Series, wanted: Mapping[str, str] = MappingProxyType({})) -> float:
    """The sum of the values with the labels `wanted`."""
    total = sum(value for labels, value in series if wanted.items() <= dict(labels).items())
    if not 0 <= total < math.inf:  # NaN is not either
        raise ScrapeError(f"the page claims a count of {total}")
    return float(total)


def _count(series: Series, wanted: Mapping[str, str] = MappingProxyType({})) -> int:
    return int(_total(series, wanted))


def _label(series: Series, name: str) -> int:
    """An integer label, the least of all engines; 0 if no engine states one that can be."""
    stated = [labels.get(name, "") for labels, _value in series]
    readable = (text for text in stated if text.isdecimal() and len(text) <= MOST_DIGITS)
    return min(map(int, readable), default=0)


class Scraper:
    """Reads many pods at once; one that is slow, huge or hostile costs the others nothing."""

    def __init__(self, session: aiohttp.ClientSession, *, port: int) -> None:
        self._session = session
        self._port = port

    @classmethod
    @asynccontextmanager
    async def connect(cls, *, port: int) -> AsyncIterator[Self]:
        """With connections of its own, until the block ends."""
        # Each call of `read` has its slots. aiohttp's own limit of 100 would be one for all of
        # them: the silent pods of one resource would make those of another look silent too.
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            yield cls(session, port=port)

    async def read(self, addresses: Iterable[str]) -> list[Sample | ScrapeError]:
        """A sample for each pod address, or why there is none, in the same order."""
        # Slots of each call's own: pods of one resource cannot take those of another.
        slots = asyncio.Semaphore(CONCURRENT)
        return await asyncio.gather(*(self._read(address, slots) for address in addresses))

    async def _read(self, address: str, slots: asyncio.Semaphore) -> Sample | ScrapeError:
        host = f"[{address}]" if ":" in address else address
        try:
            async with slots, asyncio.timeout(TIMEOUT_SECONDS):
                page = await self._page(f"http://{host}:{self._port}/metrics")
            return Sample.parse(page)
        except ScrapeError as error:
            return error
        except (OSError, TimeoutError, aiohttp.ClientError, UnicodeDecodeError) as error:
            return ScrapeError(str(error) or type(error).__name__)

    async def _page(self, url: str) -> str:
        async with self._session.get(url, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ScrapeError(f"the server answered {answer.status}")
            body = bytearray()
            async for chunk in answer.content.iter_chunked(1 << 16):
                body += chunk
                if len(body) > LARGEST_BYTES:
                    raise ScrapeError(f"the page is larger than {LARGEST_BYTES} bytes")
        return body.decode()

"""The pods' ``/metrics``: read side by side, bounded in time and size, parsed into samples."""

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_SECONDS = 3.0
LARGEST_BYTES = 4 << 20
CONCURRENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """How one generation of vLLM calls what is read here."""

    usage: str = "vllm:kv_cache_usage_perc"
    running: str = "vllm:num_requests_running"
    waiting: str = "vllm:num_requests_waiting_by_reason"
    preemptions: str = "vllm:num_preemptions_total"
    rejections: str = "vllm:admission_rejections_total"
    finished: str = "vllm:request_success_total"
    sleep: str = "vllm:engine_sleep_state"
    cache: str = "vllm:cache_config_info"

    @property
    def prefixes(self) -> tuple[str, ...]:
        """What a line must start with to be worth parsing."""
        return (
            *(self.usage, self.running, self.waiting, self.preemptions),
            *(self.rejections, self.finished, self.sleep, self.cache),
        )


VLLM = Names()
"""vLLM 0.32 and 0.33."""


class ScrapeError(Exception):
    """A page that cannot be had or makes no sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one pod said at one time.

    Attributes:
        usage: share of the KV cache in use, 0 to 1.
        waiting: requests that wait for capacity; those deferred for other reasons do not count.
        preemptions: since the server started, like rejections and finished.
        cache_tokens: what the cache holds; 0 if the page does not say.
        cache_bytes: its memory; 0 if the page does not say.
    """

    usage: float
    running: int
    waiting: int
    preemptions: int = 0
    rejections: int = 0
    finished: int = 0
    asleep: bool = False
    cache_tokens: int = 0
    cache_bytes: int = 0

    @classmethod
    def parse(cls, page: str, names: Names = VLLM) -> Self:
        """The sample on a ``/metrics`` page; engines of one server are taken together.

        Raises:
            ScrapeError: it is no such page, or a gauge is missing or absurd.
        """
        found = _series(page, names)
        usages = [value for _labels, value in found[names.usage]]
        if not usages or not found[names.running]:
            raise ScrapeError("the page has no vLLM gauges")
        sample = cls(
            usage=sum(usages) / len(usages),
            running=_total(found[names.running]),
            waiting=_total(found[names.waiting], reason="capacity"),
            preemptions=_total(found[names.preemptions]),
            rejections=_total(found[names.rejections]),
            finished=_total(found[names.finished]),
            asleep=_total(found[names.sleep]) > _total(found[names.sleep], sleep_state="awake"),
            cache_tokens=_label(found[names.cache], "kv_cache_size_tokens"),
            cache_bytes=_label(found[names.cache], "kv_cache_memory_bytes"),
        )
        if not 0 <= sample.usage <= 1 or min(sample.running, sample.waiting) < 0:
            raise ScrapeError(f"the page claims a cache usage of {sample.usage}")
        return sample


Series = list[tuple[Mapping[str, str], float]]


def _series(page: str, names: Names) -> dict[str, Series]:
    """Values by name; only lines that matter are parsed, as a page has thousands."""
    found: dict[str, Series] = {name: [] for name in names.prefixes}
    lines = (line for line in page.splitlines() if line.startswith(names.prefixes))
    try:
        for family in text_string_to_metric_families("\n".join(lines) + "\n"):
            for sample in family.samples:
                if sample.name in found:
                    found[sample.name].append((sample.labels, sample.value))
    except ValueError as error:
        raise ScrapeError(f"the page cannot be parsed: {error}") from error
    return found


def _total(series: Series, **wanted: str) -> int:
    try:
        return int(sum(v for labels, v in series if wanted.items() <= dict(labels).items()))
    except (ValueError, OverflowError) as error:  # NaN, infinity
        raise ScrapeError("a counter is no number") from error


def _label(series: Series, name: str) -> int:
    """An integer label, the least of all engines; 0 if no engine states it."""
    stated = [labels.get(name, "") for labels, _value in series]
    return min((int(text) for text in stated if text.isdecimal()), default=0)


class Scraper:
    """Reads many pods at once; one that is slow, huge or hostile costs the others nothing."""

    def __init__(self, session: aiohttp.ClientSession, *, port: int) -> None:
        self._session = session
        self._port = port
        self._slots = asyncio.Semaphore(CONCURRENT)

    async def read(self, addresses: Iterable[str]) -> list[Sample | ScrapeError]:
        """A sample for each pod address, or why there is none, in the same order."""
        return await asyncio.gather(*(self._read(address) for address in addresses))

    async def _read(self, address: str) -> Sample | ScrapeError:
        host = f"[{address}]" if ":" in address else address
        try:
            async with self._slots, asyncio.timeout(TIMEOUT_SECONDS):
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

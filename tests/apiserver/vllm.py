"""A stand-in for servers: answers ``/metrics`` on each loopback address with what a test says."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web

PAGE = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="demo"}} {running}
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{{engine="0",model_name="demo",reason="capacity"}} {waiting}
vllm:num_requests_waiting_by_reason{{engine="0",model_name="demo",reason="deferred"}} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0",model_name="demo"}} {usage}
# TYPE vllm:num_preemptions counter
vllm:num_preemptions_total{{engine="0",model_name="demo"}} 0.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{engine="0",kv_cache_size_tokens="{tokens}",num_gpu_blocks="64"}} 1.0
"""


@dataclass
class Load:
    """What one server has to do."""

    running: int = 0
    waiting: int = 0
    usage: float = 0.0
    tokens: int = 8192


@dataclass
class Servers:
    """Servers by address; one that is not there answers 503."""

    port: int
    loads: dict[str, Load] = field(default_factory=dict)

    async def metrics(self, request: web.Request) -> web.Response:
        """The page of the server that was asked."""
        assert request.transport is not None
        address = request.transport.get_extra_info("sockname")[0]
        if address not in self.loads:
            return web.Response(status=503)
        return web.Response(text=PAGE.format(**vars(self.loads[address])))


@asynccontextmanager
async def servers() -> AsyncIterator[Servers]:
    """Listen on every loopback address until the block ends."""
    found = Servers(port=0)
    application = web.Application()
    application.router.add_get("/metrics", found.metrics)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", 0).start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()

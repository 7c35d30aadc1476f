"""A server with round numbers, requests for it, and a way to serve them."""

from collections.abc import Sequence

from bench.autoscaler.engine import Engine
from bench.autoscaler.requests import Job, Request
from bench.autoscaler.roofline import Server, StepTime

STEP = StepTime(fixed=0.001, weights=0.009, token=0.001, context=0.0, pair=0.0)
"""Ten milliseconds to decode, a millisecond for each token of a prompt."""
SERVER = Server(
    name="round",
    step=STEP,
    cache_tokens=10_000,
    max_model_tokens=4096,
    max_sequences=8,
    max_batched_tokens=512,
    block_tokens=2,
)


def request(
    prompt: int, output: int = 1, *, at: float = 0.0, prefix: tuple[int, ...] = ()
) -> Request:
    return Request(arrival=at, prompt_tokens=prompt, output_tokens=output, prefix=prefix)


def serve(requests: Sequence[Request], server: Server = SERVER) -> tuple[Engine, list[Job]]:
    """One server, and what became of the requests on it."""
    engine = Engine(server)
    jobs = [Job(each) for each in requests]
    engine.arriving.extend(jobs)
    while engine.outstanding:
        engine.advance(engine.now + 10)
    return engine, jobs

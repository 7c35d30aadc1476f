"""Serves a mixture of requests step by step, from a pool whose unowned blocks are poisoned."""

from collections.abc import Sequence
from typing import Any

from vllm.v1.engine.llm_engine import LLMEngine

from tests.engine.engines import greedy, metric, start
from tests.engine.mixture import Request
from tests.engine.pages import PoisonedPool


def serve_mixture(
    *, model: str, options: dict[str, Any], requests: list[Request]
) -> dict[str, Any]:
    """Serve all of them.

    Returns:
        ``tokens`` of each answer; ``preemptions``; ``cached``: tokens of prompts found in the
        cache; ``poisoned``: how many blocks were, over all steps; ``untouched``: whether block 0
        still holds poison alone.
    """
    llm = start(model, options)
    pool = PoisonedPool(llm)
    service = _Service(llm.llm_engine, requests)
    poisoned = 0
    while service.goes_on():
        poisoned += pool.poison()
        service.step()
    return {
        "tokens": service.answers,
        "preemptions": metric(llm, "vllm:num_preemptions"),
        "cached": metric(llm, "vllm:prefix_cache_hits"),
        "poisoned": poisoned,
        "untouched": pool.block_0_is_untouched(),
    }


class _Service:
    """An engine and what it has answered so far."""

    def __init__(self, engine: LLMEngine, requests: Sequence[Request]) -> None:
        self.answers: list[list[int]] = [[] for _ in requests]
        self._engine, self._requests = engine, requests
        order = sorted(range(len(requests)), key=lambda number: requests[number].comes_at)
        self._coming = order[::-1]
        self._steps = 0

    def goes_on(self) -> bool:
        """Whether requests run or are to come."""
        return bool(self._coming) or self._engine.has_unfinished_requests()

    def step(self) -> None:
        """Submit those whose time has come, compute once, and give up those who have enough."""
        while self._coming and self._requests[self._coming[-1]].comes_at <= self._steps:
            self._submit(self._coming.pop())
        for output in self._engine.step():
            self._hear(int(output.request_id), list(output.outputs[0].token_ids))
        self._steps += 1

    def _submit(self, number: int) -> None:
        request = self._requests[number]
        prompt: Any = {"prompt_token_ids": request.prompt}
        self._engine.add_request(str(number), prompt, greedy(request.tokens))

    def _hear(self, number: int, tokens: list[int]) -> None:
        self.answers[number] = tokens
        if len(tokens) == self._requests[number].given_up_after:
            self._engine.abort_request([str(number)])

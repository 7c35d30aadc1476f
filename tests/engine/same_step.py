"""Steps in which a sequence comes that begins like another one, whose tile they complete."""

from dataclasses import replace
from typing import Any

import pytest
from vllm import LLM

from kvarn.engine import backend
from kvarn.format.layout import TILE_TOKENS
from kvarn.kernels.batch import Batch
from tests.engine.engines import greedy, start

ANSWER_TOKENS = 40


def reads_of_tiles_stored_beside(
    *, model: str, options: dict[str, Any], prompt: list[int], after: int
) -> dict[str, Any]:
    """A prompt, and after some steps the same prompt with its answer so far and another token.

    Returns:
        ``reads``, in how many steps of single tokens a sequence reads a tile that another one
        completes; ``single``, how many such steps there are; ``completing``, those of them that
        complete a tile; ``cached``, the second prompt's tokens that were found in the cache.
    """
    found = {"single": 0, "completing": 0, "reads": 0}
    usual = backend.kernels()

    def watched(batch: Batch) -> Any:
        if batch.most_new == 1:
            found["single"] += 1
            found["completing"] += bool(_completed(batch))
            found["reads"] += _reads(batch)
        return usual.prepare(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "kernels", lambda: replace(usual, prepare=watched))
        llm = start(model, options | {"enable_prefix_caching": True})
        return found | {"cached": _serve(llm, prompt, after)}


def _serve(llm: LLM, prompt: list[int], after: int) -> int:
    engine = llm.llm_engine
    engine.add_request("first", {"prompt_token_ids": prompt}, greedy(ANSWER_TOKENS))
    tokens: list[int] = []
    for _ in range(after):
        for output in engine.step():
            tokens = list(output.outputs[0].token_ids)
    again = [*prompt, *tokens, 7]
    engine.add_request("second", {"prompt_token_ids": again}, greedy(2))
    cached = 0
    while engine.has_unfinished_requests():
        for output in engine.step():
            if output.request_id.startswith("second"):
                cached = output.num_cached_tokens or 0
    return cached


def _completed(batch: Batch) -> dict[int, int]:
    """Pages of tiles that the step completes, and whose."""
    lengths = batch.lengths.tolist()
    return {
        int(batch.table[row, length // TILE_TOKENS - 1]): row
        for row, length in enumerate(lengths)
        if length and length % TILE_TOKENS == 0
    }


def _reads(batch: Batch) -> bool:
    completed = _completed(batch)
    return any(
        completed.get(int(page), row) != row
        for row, length in enumerate(batch.lengths.tolist())
        for page in batch.table[row, : (length - 1) // TILE_TOKENS]
    )

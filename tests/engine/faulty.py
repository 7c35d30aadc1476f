"""A model with a token whose keys and values are not finite, and what the engine makes of it."""

from typing import Any

import pytest
import torch
from vllm import LLM
from vllm.model_executor.layers.attention import Attention

from kvarn.engine import faults
from kvarn.format.packing import decode
from kvarn.format.reference import dequantise
from tests.engine.engines import complete, start
from tests.engine.pages import found_pages, layers_of, tiles_of

Rows = dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]]


def serve_faulty_token(
    *,
    model: str,
    options: dict[str, Any],
    token: int,
    prompts: list[list[int]],
    faulty: list[int],
    tokens: int,
) -> dict[str, Any]:
    """Serve prompts without each other and together with one that has the token, then that alone.

    Returns:
        ``without`` and ``beside``, the answers to the prompts; ``answers`` to the faulty prompt,
        beside them and alone; ``told``, how many numbers the engine has counted in all;
        ``counted`` of them in the last run, and ``computed``: how many of what its layers put into
        complete tiles were not finite; ``layers``, for each whether the tiles that the model
        computed are finite, whether those in the pages are, and how many pages equal the
        reference's bytes of each tile.
    """
    llm = start(model, options)
    llm.apply_model(lambda module: _spoil(module, token))
    counter = faults.faults_on(torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faults, "LOOK_EVERY_STEPS", 1)
        without = _answers(llm, prompts, tokens)
        *beside, among = _answers(llm, [*prompts, faulty], tokens)
        before, rows = int(counter.count), _listen(llm)
        (alone,) = _answers(llm, [faulty], tokens)
    layers = [_compare(layer, *rows[layer.layer_name]) for layer in layers_of(llm, Attention)]
    return {
        "without": without,
        "beside": beside,
        "answers": [among, alone],
        "told": int(counter.count),
        "counted": int(counter.count) - before,
        "computed": sum(layer.pop("faults") for layer in layers),
        "layers": layers,
    }


def _spoil(module: torch.nn.Module, token: int) -> None:
    """Put an infinity into the embedding of a token."""
    embedding: Any = module.get_submodule("model.embed_tokens")
    embedding.weight.data[token, 0] = torch.inf


def _answers(llm: LLM, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    return [list(output.outputs[0].token_ids) for output in complete(llm, prompts, tokens)]


def _listen(llm: LLM) -> Rows:
    """Keys and values that each layer computes from now on, step by step."""
    heard: Rows = {}
    for layer in layers_of(llm, Attention):
        heard[layer.layer_name] = ([], [])

        def hear(module: Any, given: tuple[torch.Tensor, ...]) -> None:
            for steps, rows in zip(heard[module.layer_name], given[1:], strict=True):
                steps.append(rows.clone())

        layer.register_forward_pre_hook(hear)
    return heard


def _compare(layer: Any, keys: list[torch.Tensor], values: list[torch.Tensor]) -> dict[str, Any]:
    tiles = tiles_of(layer, torch.cat(keys), torch.cat(values))
    found, equal = found_pages(layer, *tiles)
    stored = dequantise(layer.impl.layout, decode(layer.impl.layout, found))
    return {
        "computed": _finite(*tiles),
        "stored": _finite(*stored),
        "pages": equal,
        "faults": sum(int((~rows.isfinite()).sum()) for rows in tiles),
    }


def _finite(*rows: torch.Tensor) -> list[bool]:
    """Whether each tile ``[H, 128, D]`` of keys and of values is finite."""
    finite: list[bool] = (
        torch.stack([tiles.isfinite().flatten(1).all(1) for tiles in rows]).all(0).tolist()
    )
    return finite

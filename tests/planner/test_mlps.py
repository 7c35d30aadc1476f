"""Widths of MLPs and experts that tensor parallelism must deal in whole groups."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from kvarn.planner import Accelerator, ModelShape, RequestError, ShapeError, plan, read_shape
from kvarn.planner.catalogue import known_models
from kvarn.planner.mlp import Mlp
from tests.planner.builders import real_config, real_shape

KNOWN = known_models()
BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128]}
PER_TENSOR = {"quant_method": "fp8", "activation_scheme": "static"}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}


def packed(strategy: str = "group", **weights: Any) -> dict[str, Any]:
    """Quantisation by compressed-tensors under one scheme."""
    scheme = {"num_bits": 4, "type": "int", "strategy": strategy, **weights}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": scheme}}}


def quantized(model: str, how: dict[str, Any]) -> ModelShape:
    return read_shape(real_config(model, quantization_config=how))


def undivided(shape: ModelShape, gpu: str, count: int) -> str:
    return shape.undivided(Accelerator.find(gpu, count=count))


def dealt(shape: ModelShape, gpu: str = "H200") -> list[int]:
    """Numbers of devices that share the model."""
    return [n for n in range(1, 65) if not undivided(shape, gpu, n)]


NARROW = quantized("Qwen3-30B-A3B", BLOCKS)
WIDE = replace(NARROW, mlps=(Mlp(kind="routed", width=1536, group=128),))
"""The second as in Qwen3-235B-A22B-FP8."""
GATES = ["lm_head", "model.layers.0.mlp.gate", "model.layers.0.mlp.shared_expert_gate", "mtp.fc"]
SHARED = quantized("Qwen3.5-35B-A3B", BLOCKS | {"modules_to_not_convert": GATES})
"""vLLM refuses it on eight (vllm-project/vllm#52915)."""


@pytest.mark.parametrize(
    ("shape", "count", "words"),
    [
        (
            KNOWN["Qwen/Qwen3-30B-A3B-FP8"],
            16,
            (
                "routed experts of width 768 do not divide among 16 devices in groups of 32;"
                " use 1, 2, 4 or 8 of them."
            ),
        ),
        (
            KNOWN["Qwen/Qwen3-Coder-480B-A35B-Instruct"],
            24,
            (
                "routed experts of width 2,560 do not divide among 24 devices; use 1, 2, 4, 8, 16"
                " or 32 of them."
            ),
        ),
        (
            SHARED,
            8,
            (
                "shared experts of width 512 do not divide among 8 devices in groups of 128; use"
                " 1, 2 or 4 of them."
            ),
        ),
    ],
    ids=["fp8", "plain", "shared"],
)
def test_what_vllm_does_not_deal_is_refused_with_the_counts_that_it_does(
    shape: ModelShape, count: int, words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        plan(shape, Accelerator.find("H200", count=count))


@pytest.mark.parametrize("gpu", ["L40S", "H100", "B200"])
def test_blocks_of_experts_are_split_where_triton_computes_with_fp8(gpu: str) -> None:
    """Qwen3-235B-A22B-FP8 starts on eight: 1,536 / 8 = 192 numbers, under scales for 64."""
    assert dealt(WIDE, gpu) == [1, 2, 4, 8, 16]


def test_before_ada_they_stay_whole() -> None:
    """Marlin and Humming, the kernels there, know no other blocks than those of 128 × 128."""
    assert dealt(WIDE, "A100-SXM4-80GB") == [1, 2, 4]
    assert undivided(WIDE, "A100-SXM4-80GB", 8) == (
        "routed experts of width 1,536 do not divide among 8 devices in groups of 128"
    )


@pytest.mark.parametrize(
    ("how", "counts"),
    [
        (None, [1, 2, 4, 8, 16, 32]),
        (BLOCKS, [1, 2, 4, 8]),
        (PER_TENSOR, [1, 2, 4, 8, 16, 32]),
        (AWQ, [1, 2, 4, 8]),
        (GPTQ, [1, 2, 4, 8]),
        (packed(group_size=128), [1, 2]),
        (packed(group_size=32), [1, 2, 4, 8]),
        (packed("channel"), [1, 2, 4, 8, 16, 32]),
        (packed("block", num_bits=8, type="float", block_structure=[128, 128]), [1, 2]),
        (packed("tensor_group", type="float", group_size=16), [1, 2, 4, 8, 16, 32]),
    ],
    ids=["plain", "fp8", "per tensor", "awq", "gptq", "int4", "fine", "channel", "blocks", "nvfp4"],
)
def test_a_quantisation_says_what_stays_together(
    how: dict[str, Any] | None, counts: list[int]
) -> None:
    assert dealt(read_shape(real_config("Qwen3-30B-A3B", quantization_config=how))) == counts


@pytest.mark.parametrize(
    ("how", "counts"),
    [
        (BLOCKS, [1, 2]),
        (PER_TENSOR, [1, 2, 4, 8, 16, 32]),
        (AWQ, [1, 2]),
        (AWQ | {"group_size": 32}, [1, 2, 4, 8]),
        (packed(group_size=128), [1, 2]),
        (packed("channel"), [1, 2, 4, 8, 16, 32]),
    ],
)
def test_so_does_that_of_a_dense_model(how: dict[str, Any], counts: list[int]) -> None:
    """11,008 is 86 groups of 128, and 344 of 32."""
    assert dealt(quantized("Llama-2-7b-hf", how)) == counts


@pytest.mark.parametrize(
    "kept",
    [
        [f"model.layers.{layer}.mlp.shared_experts" for layer in range(78)],
        ["model.layers.0.mlp.shared_experts.down_proj"],
        ["model.layers.3.share_expert"],
        ["shared_expert"],
        ["re:.*mlp.gate_up_proj$"],
        ["model.layers.0"],
        ["down_proj"],
        ["re:.*down_proj$"],
        [r"re:.*layers\.0\..*"],
        ["re:.*(visual|experts).*"],
        ["*.ffn.*"],
    ],
)
def test_what_may_be_kept_in_16_bits_is_dealt_freely(kept: list[str]) -> None:
    """Its shared experts hold GLM-5.2-FP8 to 16 devices."""
    config = real_config("GLM-5.2-FP8")
    stated = config["quantization_config"]
    kept = [*stated["modules_to_not_convert"], *kept]

    assert dealt(read_shape(config)) == [1, 2, 4, 8, 16]
    assert dealt(quantized("GLM-5.2-FP8", stated | {"modules_to_not_convert": kept}))[-1] == 64


def test_without_a_list_shared_experts_may_be_kept() -> None:
    """Step-3.7-Flash-FP8 has only its routed experts in 8 bits, and lists nothing."""
    assert dealt(quantized("Qwen3.5-35B-A3B", BLOCKS)) == [1, 2, 4, 8, 16]
    assert dealt(KNOWN["stepfun-ai/Step-3.7-Flash-FP8"])[-1] > 4


def test_a_scheme_for_experts_says_nothing_of_others() -> None:
    how = packed(group_size=32)
    how["config_groups"]["group_0"]["targets"] = [r"re:.*mlp\.experts\..*"]

    assert dealt(quantized("DeepSeek-V2-Lite", how | {"ignore": ["lm_head"]}))[-1] == 16


def test_mxfp4_experts_are_filled_up_to_any_share() -> None:
    assert dealt(real_shape("gpt-oss-120b")) == [1, 2, 4, 8, 16, 32, 64]


def test_a_stated_shape_says_what_it_knows() -> None:
    stated = NARROW.to_dict()
    silent = ModelShape.from_dict({key: stated[key] for key in stated if key != "mlps"})

    assert ModelShape.from_dict(stated) == NARROW
    assert dealt(silent) == [1, 2, 4, 8, 16, 32]


@pytest.mark.parametrize(
    ("mlp", "words"),
    [
        ({"kind": "routed"}, "mlps lacks width; add it"),
        ({"kind": None, "width": 8}, "mlps lacks kind; add it"),
        ({"kind": "routed", "width": 0}, "width of the routed MLPs is 0; give a positive number"),
        ({"kind": "routed", "width": 8, "group": -1}, "group is -1; give 0 or more"),
        ({"kind": "wide", "width": 8}, "use one of dense, shared, routed"),
        ({"kind": "routed", "width": 8, "depth": 1}, "depth is no field of mlps; remove it"),
        ({"kind": "routed", "width": "8"}, "width is '8'; give an integer"),
    ],
)
def test_a_broken_mlp_names_the_remedy(mlp: dict[str, Any], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        ModelShape.from_dict({**NARROW.to_dict(), "mlps": [mlp]})


WIDTHS = (512, 704, 768, 1280, 1408, 1536, 2048, 2560, 2880, 3072, 18432)
"""Widths of real experts, and of one real MLP beside them."""
COUNTS = (2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64)


@pytest.mark.serving
def test_vllm_deals_the_same() -> None:
    asked = list(product(WIDTHS, COUNTS))
    shape = replace(NARROW, attention_heads=960, kv_heads=960)

    for (kind, how), starts in _vllm(asked).items():
        for (width, count), it_starts in zip(asked, starts, strict=True):
            mlp = Mlp(kind=kind, width=width, group=128)
            undealt = undivided(replace(shape, quantization=how, mlps=(mlp,)), "H200", count)
            assert (not undealt) == it_starts, (kind, how, width, count)


def _vllm(asked: list[tuple[int, int]]) -> dict[tuple[str, str], list[bool]]:
    """By kind and quantisation, whether vLLM starts with a width on so many devices."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("mlp_referee.py"))],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return {(kind, how): starts for kind, how, starts in found}

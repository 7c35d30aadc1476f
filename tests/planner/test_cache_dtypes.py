"""What vLLM is told to keep its cache in: never what a checkpoint says instead."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from kvarn.planner import FORMATS, Accelerator, ModelShape, plan
from kvarn.planner.catalogue import known_models
from kvarn.planner.version import EngineVersion
from tests.planner.builders import real_shape

H200 = Accelerator.find("H200", count=8)
SCHEMED = [
    "GLM-5.2-NVFP4",
    *("Gemma-4-26B-A4B-NVFP4", "Gemma-4-31B-IT-NVFP4"),
    *("Kimi-K2.5-NVFP4", "Kimi-K2.6-NVFP4", "Kimi-K2.7-Code-NVFP4"),
    *("MiniMax-M2.5-NVFP4", "MiniMax-M2.7-NVFP4"),
    *("Qwen3.5-122B-A10B-NVFP4", "Qwen3.6-27B-NVFP4"),
]
PLAIN = FORMATS["bf16"]


SCHEMES = [
    {"kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"}},
    {"kv_cache_quant_algo": "FP8"},
]


def resolved(cache_dtype: str, scheme: dict[str, Any]) -> str:
    """What vLLM makes of `--kv-cache-dtype` for a checkpoint of NVIDIA's with such a scheme."""
    from vllm.utils.torch_utils import resolve_kv_cache_dtype_string

    hf_config = SimpleNamespace(quantization_config={"quant_method": "modelopt", **scheme})
    return resolve_kv_cache_dtype_string(cache_dtype, SimpleNamespace(hf_config=hf_config))


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: next(iter(scheme)))
@pytest.mark.parametrize("model", SCHEMED)
def test_a_plain_cache_is_plain_where_a_checkpoint_would_have_fp8(
    model: str, scheme: dict[str, Any]
) -> None:
    cache_dtype = PLAIN.engine_dtype(known_models()[f"nvidia/{model}"], H200)

    assert resolved("auto", scheme) == "fp8_e4m3"
    assert resolved(cache_dtype, scheme) == cache_dtype == "bfloat16"


def test_a_plan_says_so() -> None:
    made = plan(known_models()["nvidia/Qwen3.6-27B-NVFP4"], H200, cache_format="bf16")

    assert made.vllm_flags()[:2] == ("--kv-cache-dtype", "bfloat16")


def test_glm_s_sparse_attention_is_plain_on_blackwell_too() -> None:
    """The engine keeps it in 8 bits there, whatever the checkpoint says, unless told otherwise."""
    b200 = Accelerator.find("B200", count=8)

    assert PLAIN.engine_dtype(known_models()["zai-org/GLM-5-FP8"], b200) == "bfloat16"


def test_an_old_release_keeps_the_8_bits_that_are_planned_for() -> None:
    shape = known_models()["nvidia/DeepSeek-V3.2-NVFP4"]

    assert PLAIN.engine_dtype(shape, H200, EngineVersion.parse("0.15")) == "auto"
    assert PLAIN.engine_dtype(shape, H200, EngineVersion.parse("0.16")) == "bfloat16"


@pytest.mark.parametrize("quantization", ["", "fp8", "awq", "gptq", "mxfp4"])
def test_where_no_checkpoint_has_a_say_the_engine_s_default_stands(quantization: str) -> None:
    shape = replace(real_shape("Qwen3-8B"), quantization=quantization)

    assert PLAIN.engine_dtype(shape, H200) == "auto"


@pytest.mark.parametrize(("product", "wanted"), [("cpu", "auto"), ("Tesla-T4", "float16")])
def test_a_cpu_takes_no_type_by_name_and_an_old_gpu_no_bfloat16(product: str, wanted: str) -> None:
    shape = replace(real_shape("Qwen3-8B"), quantization="compressed-tensors")

    assert PLAIN.engine_dtype(shape, Accelerator.find(product)) == wanted


@pytest.mark.parametrize("shape", known_models().values(), ids=known_models())
def test_vllm_and_its_attention_know_each_plain_type(shape: ModelShape) -> None:
    from vllm.config.cache import CacheDType
    from vllm.v1.attention.backend import AttentionBackend

    cache_dtype = PLAIN.engine_dtype(shape, H200)

    assert cache_dtype in get_args(CacheDType)
    assert cache_dtype in AttentionBackend.supported_kv_cache_dtypes

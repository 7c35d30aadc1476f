"""What a GPU cannot serve whatever the cache, and what nobody knows of it."""

import pytest

from kvarn.planner import FORMATS, Accelerator, Limits, PlanError, plan
from kvarn.planner.catalogue import known_models
from kvarn.planner.version import LATEST
from tests.planner.builders import real_shape

SPARSE = ["nvidia/DeepSeek-V3.2-NVFP4", "deepseek-ai/DeepSeek-V3.2", "zai-org/GLM-5-FP8"]
QWEN = real_shape("Qwen3-8B")
NOVEL = Accelerator.find("new", memory_bytes=80 << 30)
MI300X = Accelerator.find("MI300X", memory_bytes=192 << 30)


def refusal(name: str, model: str, device: Accelerator) -> str:
    return FORMATS[name].refusal(known_models()[model], device, LATEST)


@pytest.mark.parametrize("product", ["A100-SXM4-80GB", "A40", "L40S"])
@pytest.mark.parametrize("model", SPARSE)
def test_sparse_attention_has_no_kernels_before_hopper(model: str, product: str) -> None:
    device = Accelerator.find(product, count=8)

    for name in ("bf16", "fp8"):
        assert refusal(name, model, device) == (
            f"a GPU of compute capability {device.capability}; sparse attention needs 9.0"
        )
    with pytest.raises(PlanError, match=r"^No cache format can serve the model: a GPU of .* 9\.0"):
        plan(known_models()[model], device)


@pytest.mark.parametrize("product", ["H200", "B200"])
@pytest.mark.parametrize("model", SPARSE)
def test_hopper_and_blackwell_have_them(model: str, product: str) -> None:
    device = Accelerator.find(product, count=8)

    assert not refusal("bf16", model, device)
    assert not refusal("fp8", model, device)


@pytest.mark.parametrize("model", SPARSE)
def test_a_workstation_has_them_for_8_bits(model: str) -> None:
    """As `FlashInferMLASparseSM120Backend` says of itself."""
    device = Accelerator.find("RTX-PRO-6000-Blackwell-96GB", count=8)

    assert refusal("bf16", model, device).endswith("12.0, whose sparse attention reads fp8 alone")
    assert not refusal("fp8", model, device)


@pytest.mark.parametrize("model", SPARSE)
def test_a_cpu_has_no_sparse_attention(model: str) -> None:
    assert refusal("bf16", model, Accelerator.cpu()) == "sparse attention on a CPU"


@pytest.mark.parametrize("model", ["google/gemma-2-2b-it", "google/gemma-3-1b-it"])
def test_models_that_float16_breaks_are_not_served_before_ampere(model: str) -> None:
    """Computing in float32, as vLLM would, takes twice the memory that a shape says."""
    t4 = Accelerator.find("Tesla-T4")

    assert {refusal(name, model, t4) for name in FORMATS} == {
        "a GPU of compute capability 7.5; the model in bfloat16 needs 8.0"
    }
    assert not refusal("bf16", model, Accelerator.find("A30"))
    assert not refusal("bf16", "Qwen/Qwen2.5-7B-Instruct", t4)


def test_what_nobody_knows_gets_a_plain_cache_unless_another_is_asked_for() -> None:
    made = plan(QWEN, NOVEL)

    assert made.format == "bf16"
    assert made.reason.endswith(
        "No tiles: the GPU's compute capability is not known; ask for the format by name."
    )
    assert plan(QWEN, NOVEL, cache_format="fp8").format == "fp8"
    assert plan(QWEN, NOVEL, cache_format="kvarn_k4v2_g128").format == "kvarn_k4v2_g128"


def test_no_other_format_is_named_as_a_remedy_on_such_a_gpu() -> None:
    small, long = Accelerator.find("new", memory_bytes=18 << 30), Limits(max_model_tokens=16384)
    llama = real_shape("Meta-Llama-3.1-8B")

    assert plan(llama, small, limits=long, cache_format="fp8")
    with pytest.raises(PlanError, match="ten the context to") as caught:
        plan(llama, small, limits=long)
    assert "use format" not in caught.value.message


@pytest.mark.parametrize("product", ["MI300X", "AMD-Instinct-MI250X", "Radeon-PRO-W7900"])
def test_tiles_have_kernels_for_nvidia_alone(product: str) -> None:
    device = Accelerator.find(product, memory_bytes=192 << 30)

    with pytest.raises(PlanError, match="tiles have kernels for NVIDIA's GPUs alone"):
        plan(QWEN, device, cache_format="kvarn_k4v2_g128")
    made = plan(QWEN, device)
    assert made.format == "bf16"
    assert made.reason.endswith(
        "No tiles: an AMD device; tiles have kernels for NVIDIA's GPUs alone."
    )

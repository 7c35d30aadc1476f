"""Models whose images attend both ways: vLLM computes each image and film in one step."""

from dataclasses import replace

import pytest

from kvarn.planner import Accelerator, Limits, ModelShape, RequestError, Workload, plan
from kvarn.planner.catalogue import known_models
from tests.planner.builders import real_shape

GEMMA = known_models()["nvidia/Gemma-4-31B-IT-NVFP4"]
GEMMA_FILM = 32 * (70 + 2 + 6)
PALIGEMMA = replace(
    real_shape("gemma-2-2b-it"),
    architecture="PaliGemmaForConditionalGeneration",
    attention_traits=("images",),
)
L40S = Accelerator.find("L40S")


@pytest.mark.parametrize(("shape", "item"), [(GEMMA, GEMMA_FILM), (PALIGEMMA, 4096)])
@pytest.mark.parametrize("product", ["L4", "L40S", "A100-SXM4-80GB", "H200"])
def test_a_step_holds_the_largest_item(shape: ModelShape, item: int, product: str) -> None:
    """Or `compute_mm_encoder_budget` of vLLM would refuse to start."""
    made = plan(shape, Accelerator.find(product, count=4), workload=Workload(concurrency=1024))

    assert made.max_batched_tokens >= item


def test_the_narrowest_step_is_the_item_itself() -> None:
    crowd = Workload(prompt_tokens=200, output_tokens=56, concurrency=512)
    made = plan(GEMMA, L40S, workload=crowd)

    assert made.max_batched_tokens == GEMMA_FILM


def test_a_step_fixed_below_it_is_refused() -> None:
    narrow = Limits(max_batched_tokens=2048)

    with pytest.raises(RequestError) as caught:
        plan(GEMMA, L40S, limits=narrow)
    assert caught.value.message == (
        "maxBatchedTokens is 2,048, and the model computes an image or a film of up to 2,496 tokens"
        " in one step; raise it."
    )


def test_other_models_take_their_images_in_pieces() -> None:
    shape = replace(GEMMA, attention_traits=())

    assert plan(shape, L40S, limits=Limits(max_batched_tokens=512)).max_batched_tokens == 512

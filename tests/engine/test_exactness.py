"""A real vLLM gives the same tokens whatever the batch, the chunks, the cache and the pool."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.lanes import once
from tests.engine.prompts import K4V2, PROMPTS, RAW, prompt

pytestmark = pytest.mark.serving


BARELY_ENOUGH_BLOCKS = 56
"""The null block, 30 for the prompts, 24 for their tails, one for what they grow by."""

Generate = Callable[..., dict[str, Any]]


SHARED = prompt(700, 0)
FAMILY = [SHARED + prompt(40 + 30 * child, child) for child in range(6)]


def test_raw_tiles_give_the_tokens_of_the_stock_cache(generate: Generate) -> None:
    assert generate([PROMPTS], **RAW)["tokens"] == generate([PROMPTS])["tokens"]


def test_a_batch_gives_the_tokens_of_each_sequence_alone(generate: Generate) -> None:
    (together,) = generate([PROMPTS], **K4V2)["tokens"]
    alone = generate([[each] for each in PROMPTS], **K4V2)["tokens"]
    assert [[tokens] for tokens in together] == alone


def test_the_log_names_the_kernels_that_were_chosen(generate: Generate, host: Any) -> None:
    generate([PROMPTS], **K4V2)
    line = "kvarn_k4v2_g128 is stored and attended by kernels in PyTorch, outside of CUDA graphs."
    assert line in host.log


def test_chunks_of_a_prompt_change_nothing(generate: Generate) -> None:
    whole = generate([PROMPTS], **K4V2)
    chunked = generate([PROMPTS], max_num_batched_tokens=192, **K4V2)
    assert chunked["tokens"] == whole["tokens"]


@once
@pytest.mark.parametrize("cache_format", ["kvarn_k3v3_g128", "kvarn_k4v3_g128", "kvarn_k4v4_g128"])
def test_the_other_formats_depend_as_little_on_batches_and_chunks(
    generate: Generate, cache_format: str
) -> None:
    prompts, options = [prompt(length, length) for length in (70, 128, 300)], {"tokens": 20}
    together, *alone = generate(
        [prompts, *([each] for each in prompts)], kv_cache_dtype=cache_format, **options
    )["tokens"]
    chunked = generate(
        [prompts], kv_cache_dtype=cache_format, max_num_batched_tokens=160, **options
    )
    assert [[tokens] for tokens in together] == alone
    assert chunked["tokens"] == [together]


def test_prefix_caching_changes_nothing(generate: Generate) -> None:
    rounds = [FAMILY[:2], FAMILY]
    without = generate(rounds, **K4V2)
    cached = generate(rounds, enable_prefix_caching=True, **K4V2)
    assert min(cached["cached"][1]) >= 640
    assert cached["tokens"] == without["tokens"]


def test_a_burst_that_shares_a_prefix_in_one_step(generate: Generate) -> None:
    """The blocks are hit in the step that fills them."""
    burst = {"enable_prefix_caching": True, "max_num_batched_tokens": 8192}
    together = generate([FAMILY], **burst, **K4V2)
    assert sorted(together["cached"][0])[1] >= 640
    without = generate([FAMILY[:2], FAMILY], **K4V2)
    assert together["tokens"][0] == without["tokens"][1]


def test_preemption_changes_nothing(generate: Generate) -> None:
    roomy = generate([PROMPTS], **K4V2)
    tight = generate([PROMPTS], num_gpu_blocks_override=BARELY_ENOUGH_BLOCKS, **K4V2)
    assert tight["preemptions"] > 0
    assert tight["tokens"] == roomy["tokens"]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_batch_of_16_bit_numbers_gives_the_tokens_of_each_sequence_alone(
    generate: Generate, precision: str
) -> None:
    prompts = [prompt(length, length) for length in (70, 128, 300)]
    (together,) = generate([prompts], tokens=20, dtype=precision, **K4V2)["tokens"]
    alone = generate([[each] for each in prompts], tokens=20, dtype=precision, **K4V2)["tokens"]
    assert [[tokens] for tokens in together] == alone


def test_scheduling_ahead_changes_nothing(generate: Generate) -> None:
    """A step is scheduled while the one before it runs, also when the pool is tight."""
    tight = {"num_gpu_blocks_override": BARELY_ENOUGH_BLOCKS, **K4V2}
    ahead = generate([PROMPTS], how="generate_ahead", **tight)
    assert ahead["ahead"]
    assert ahead["preemptions"] > 0
    assert ahead["tokens"] == generate([PROMPTS], **K4V2)["tokens"]


def test_weights_that_are_loaded_again_change_nothing(generate: Generate) -> None:
    rounds = [PROMPTS[:3], PROMPTS[:3]]
    reloaded = generate(rounds, how="generate_reloaded", **K4V2)
    assert reloaded["tokens"] == generate(rounds, **K4V2)["tokens"]


def test_a_compiled_model_gives_the_tokens_of_an_eager_one(generate: Generate) -> None:
    compiled = generate([PROMPTS[:3]], enforce_eager=False, **K4V2)
    assert compiled["graphs"] > 0
    assert compiled["tokens"][0] == generate([PROMPTS], **K4V2)["tokens"][0][:3]


def test_two_devices_give_the_tokens_of_one(generate: Generate) -> None:
    """Tensor parallelism: each has one of the two KV heads.

    Sums over devices round otherwise. Where that makes a code another, a random model soon says
    something else: so raw tiles must give the same tokens, and quantised ones begin with the same.
    """
    for options, count in ((RAW, None), (K4V2, 1)):
        divided = generate([PROMPTS], how="generate_divided", tensor_parallel_size=2, **options)
        whole = generate([PROMPTS], **options)
        (got,), (want,) = divided["tokens"], whole["tokens"]
        assert [each[:count] for each in got] == [each[:count] for each in want]

"""What a plan promises, whatever the model and the device."""

import json
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kvarn.planner import (
    AUTO,
    FORMATS,
    Accelerator,
    Correction,
    Limits,
    ModelShape,
    Plan,
    PlanError,
    RequestError,
    Workload,
    plan,
)
from kvarn.planner.accelerators import GIB
from kvarn.planner.camel import camel
from kvarn.planner.catalogue import known_models
from tests.planner.builders import accelerators, real_shape, shapes

PHI = known_models()["microsoft/phi-4"]
QWEN = real_shape("Qwen3-8B")
TINY = real_shape("Qwen2.5-0.5B")
LARGE = real_shape("Qwen2.5-32B")
H100 = Accelerator.find("H100")
LONG = Workload(prompt_tokens=16384, output_tokens=1024, concurrency=256)

formats = st.sampled_from([AUTO, *FORMATS])


def planned(
    shape: ModelShape, device: Accelerator, cache_format: str, limits: Limits | None = None
) -> Plan | None:
    """The plan, or None where there is none."""
    try:
        return plan(shape, device, cache_format=cache_format, limits=limits)
    except (PlanError, RequestError):
        return None


@given(shapes(), accelerators, formats)
def test_the_account_adds_up_to_the_devices_memory(
    shape: ModelShape, device: Accelerator, cache_format: str
) -> None:
    made = planned(shape, device, cache_format)
    assume(made)

    total, *parts = made.account
    assert total.size_bytes == device.memory_bytes
    assert sum(line.size_bytes for line in parts) == total.size_bytes
    assert all(line.size_bytes >= 0 for line in parts)


@given(shapes(), accelerators, formats)
def test_a_plan_survives_json(shape: ModelShape, device: Accelerator, cache_format: str) -> None:
    made = planned(shape, device, cache_format)
    assume(made)

    assert Plan.from_dict(json.loads(json.dumps(made.to_dict()))) == made


@given(shapes(), accelerators, st.sampled_from(list(FORMATS)), st.integers(1, 64 * GIB))
def test_more_memory_never_holds_fewer_tokens(
    shape: ModelShape, device: Accelerator, cache_format: str, more_bytes: int
) -> None:
    fixed = Limits(max_model_tokens=512, max_sequences=8, max_batched_tokens=512)
    made = planned(shape, device, cache_format, fixed)
    assume(made)

    larger = replace(device, memory_bytes=device.memory_bytes + more_bytes)
    again = planned(shape, larger, cache_format, fixed)
    assert again
    assert again.cache_tokens >= made.cache_tokens


@given(shapes(), accelerators, formats)
def test_what_vllm_would_refuse_is_never_planned(
    shape: ModelShape, device: Accelerator, cache_format: str
) -> None:
    """A request of maximal length fits beside the block that the pool keeps empty."""
    made = planned(shape, device, cache_format)
    assume(made)

    assert 1 <= made.max_model_tokens <= shape.max_position_tokens
    assert made.request_blocks < made.cache_blocks
    assert 1 <= made.max_sequences <= made.max_batched_tokens


@given(shapes(), accelerators)
def test_auto_never_takes_tiles_that_are_slower_than_others_of_their_size(
    shape: ModelShape, device: Accelerator
) -> None:
    made = planned(shape, device, AUTO)
    assume(made)

    assert made.format != "kvarn_k3v3_g128"
    held = {each.format: each.cache_tokens for each in made.alternatives}
    assert held["kvarn_k3v3_g128"] == held["kvarn_k4v2_g128"]


@given(shapes(), accelerators, st.sampled_from(list(FORMATS)))
def test_planning_again_with_the_limits_of_a_plan_gives_that_plan(
    shape: ModelShape, device: Accelerator, cache_format: str
) -> None:
    """What the operator wrote into a pod stays true when it plans again."""
    made = planned(shape, device, cache_format)
    assume(made)

    fixed = Limits(
        max_model_tokens=made.max_model_tokens,
        max_sequences=made.max_sequences,
        max_batched_tokens=made.max_batched_tokens,
    )
    again = plan(shape, device, cache_format=cache_format, limits=fixed)
    assert (again.cache_bytes, again.cache_tokens) == (made.cache_bytes, made.cache_tokens)


@given(shapes(), accelerators, formats)
def test_a_refusal_names_a_number_and_a_remedy(
    shape: ModelShape, device: Accelerator, cache_format: str
) -> None:
    assume(planned(shape, device, cache_format) is None)

    with pytest.raises((PlanError, RequestError), match=r"\d.*(use|shorten|give) .*\.$"):
        plan(shape, device, cache_format=cache_format)


def test_auto_keeps_full_precision_where_a_smaller_cache_gains_nothing() -> None:
    """Two requests of a few tokens: reading the weights is all the work."""
    few = Workload(prompt_tokens=64, output_tokens=64, concurrency=2)

    made = plan(QWEN, H100, workload=few)

    assert made.format == "bf16"
    assert "a smaller cache would gain nothing" in made.reason


def test_auto_takes_a_smaller_cache_where_reading_it_is_the_work() -> None:
    made = plan(QWEN, H100, workload=Workload(prompt_tokens=30000, output_tokens=2000))

    speeds = {other.format: other.tokens_per_second for other in made.alternatives}
    assert made.format.startswith("kvarn")
    assert made.tokens_per_second > 1.5 * speeds["bf16"]


def test_without_a_known_bandwidth_auto_counts_requests() -> None:
    made = plan(QWEN, Accelerator.find("novel", memory_bytes=80 * GIB))

    assert (made.format, made.tokens_per_second) == ("bf16", 0)


def test_auto_takes_the_smallest_cache_where_memory_binds() -> None:
    made = plan(LARGE, H100, workload=LONG)

    assert made.format.startswith("kvarn")
    assert "fp8" in made.reason


def test_auto_avoids_tiles_where_requests_are_too_short_for_them() -> None:
    """Each request's open tile takes whole blocks, which short requests never win back."""
    short = Workload(prompt_tokens=48, output_tokens=16, concurrency=4096)

    made = plan(LARGE, H100, workload=short)

    assert not made.format.startswith("kvarn")
    assert "open tile" in made.reason


def test_auto_avoids_tiles_for_attention_that_they_cannot_serve() -> None:
    made = plan(replace(LARGE, attention_traits=("softcap", "sinks")), H100, workload=LONG)

    refused = {other.format: other.note for other in made.alternatives if not other.cache_tokens}
    assert made.format == "fp8"
    assert set(refused.values()) == {"attention with sinks"}
    assert "No tiles: attention with sinks." in made.reason


def test_tiles_hold_soft_capped_attention() -> None:
    capped = replace(LARGE, attention_traits=("softcap",))
    assert plan(capped, H100, workload=LONG) == plan(LARGE, H100, workload=LONG)


def test_every_format_stands_beside_the_chosen_one() -> None:
    made = plan(QWEN, H100)

    tokens = [other.cache_tokens for other in made.alternatives]
    assert [other.format for other in made.alternatives] == list(FORMATS)
    assert tokens == sorted(tokens)


def test_the_whole_context_is_offered_where_one_request_fits() -> None:
    assert plan(QWEN, H100).max_model_tokens == 40960


def test_batches_shrink_before_a_model_is_refused() -> None:
    tight = replace(H100, memory_bytes=round(17.45 * GIB))

    made = plan(QWEN, tight, cache_format="bf16")

    assert made.max_batched_tokens < 2048
    assert "activations would leave less" in made.choices[2].reason


@pytest.mark.parametrize(
    ("device", "limits", "words"),
    [
        ("L40S", Limits(), "use H100-80GB-HBM3 or use 2 of L40S-48GB"),
        ("H100", Limits(max_model_tokens=65536), r"use format kvarn_\w+ or shorten .* to"),
        ("H200", Limits(max_batched_tokens=10**7), r": leave maxBatchedTokens to the planner\.$"),
    ],
)
def test_what_does_not_fit_says_what_would(device: str, limits: Limits, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan(LARGE, Accelerator.find(device), limits=limits, cache_format="bf16")


def test_a_container_too_small_says_how_large_it_must_be() -> None:
    with pytest.raises(PlanError, match="give the container 32 GiB"):
        plan(QWEN, Accelerator.cpu(memory_bytes=4 * GIB))


@pytest.mark.parametrize("cache_format", ["bf16", AUTO])
def test_a_remedy_works(cache_format: str) -> None:
    with pytest.raises(PlanError, match="2 of L40S"):
        plan(LARGE, Accelerator.find("L40S"), cache_format=cache_format)

    assert plan(LARGE, Accelerator.find("L40S", count=2), cache_format=cache_format)


def test_more_of_the_device_is_taken_before_a_model_is_refused() -> None:
    tight = replace(H100, memory_bytes=round(16.9 * GIB))

    made = plan(QWEN, tight, cache_format="bf16", limits=Limits(max_model_tokens=1024))

    assert made.utilization_percent == 95
    assert made.choices[3].reason == "the default, 92, is too little"


def test_what_is_too_large_for_a_host_is_dealt_to_several() -> None:
    with pytest.raises(PlanError, match="use 16 of H100-80GB-HBM3 in 2 stages"):
        plan(real_shape("DeepSeek-V3.2"), Accelerator.find("H100-80GB-HBM3", count=8))


def test_stages_share_weights_and_layers() -> None:
    alone, staged = (
        plan(LARGE, replace(H100, stages=stages), cache_format="bf16") for stages in (1, 2)
    )

    assert staged.line("weights") * 2 == pytest.approx(alone.line("weights"))
    assert staged.cache_tokens > 4 * alone.cache_tokens


def test_a_large_host_does_not_widen_the_batches_of_the_cpu() -> None:
    assert plan(QWEN, Accelerator.cpu(memory_bytes=512 * GIB)).max_batched_tokens == 2048


def test_the_cpu_cache_is_no_larger_than_the_limits_can_use() -> None:
    fixed = Limits(max_model_tokens=2048, max_sequences=4)
    made = plan(
        real_shape("Qwen2.5-0.5B"),
        Accelerator.cpu(memory_bytes=16 * GIB),
        limits=fixed,
        cache_format="kvarn_k4v2_g128",
    )

    assert made.cache_blocks == 1 + 4 * made.request_blocks
    assert made.line("left") > GIB


def test_flags_say_what_the_plan_says() -> None:
    made = plan(LARGE, Accelerator.find("H100", count=2), workload=LONG)

    flags = dict(zip(made.vllm_flags()[::2], made.vllm_flags()[1::2], strict=True))
    assert flags == {
        "--kv-cache-dtype": made.kv_cache_dtype,
        "--max-model-len": str(made.max_model_tokens),
        "--max-num-seqs": str(made.max_sequences),
        "--max-num-batched-tokens": str(made.max_batched_tokens),
        "--gpu-memory-utilization": "0.92",
        "--tensor-parallel-size": "2",
    }


def test_the_cpu_gets_its_cache_in_bytes() -> None:
    made = plan(real_shape("Qwen2.5-0.5B"), Accelerator.cpu())

    assert made.vllm_flags()[-2:] == ("--kv-cache-memory-bytes", str(made.cache_bytes))


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"cache_format": "int1"}, "No cache format is called int1; use auto, bf16"),
        ({"engine_version": "newest"}, "version is 'newest'"),
        ({"limits": Limits(max_model_tokens=50_000)}, "trained for 40,960"),
        ({"workload": Workload(prompt_tokens=50_000)}, "lower one of the two"),
    ],
)
def test_a_request_that_cannot_be_names_the_remedy(keywords: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        plan(QWEN, H100, **keywords)


def test_heads_must_divide_among_the_devices() -> None:
    with pytest.raises(RequestError, match="14 attention heads do not divide among 4"):
        plan(real_shape("Qwen2.5-0.5B"), Accelerator.find("L4", count=4))


@pytest.mark.parametrize(
    ("shape", "count", "words"),
    [
        (PHI, 4, "10 KV heads neither divide among 4 devices nor the reverse; use 1, 2, 5, 10"),
        (PHI, 8, "10 KV heads neither divide among 8 devices nor the reverse; use 1, 2, 5, 10"),
        (TINY, 7, "2 KV heads neither divide among 7 devices nor the reverse; use 1 or 2 of them."),
        (QWEN, 3, "32 attention heads do not divide among 3 devices; use 1, 2, 4, 8, 16 or 32 of"),
    ],
)
def test_kv_heads_are_dealt_or_copied_evenly(shape: ModelShape, count: int, words: str) -> None:
    """`QKVParallelLinear` of vLLM divides one by the other and asserts that nothing is left."""
    with pytest.raises(RequestError, match=words):
        plan(shape, Accelerator.find("H100", count=count))


NARROW = replace(QWEN, attention_heads=12, kv_heads=2, intermediate_size=8960)


@pytest.mark.parametrize(
    ("shape", "count", "words"),
    [
        (NARROW, 6, "an MLP of width 8,960 does not divide among 6 devices; use 1, 2 or 4 of them"),
        (
            real_shape("Qwen3-32B-FP8"),
            16,
            "an MLP of width 25,600 does not divide among 16 devices in groups of 128; use 1, 2, 4",
        ),
    ],
)
def test_an_mlp_is_dealt_in_whole_groups(shape: ModelShape, count: int, words: str) -> None:
    """`divide` of vLLM asserts it, and `validate_fp8_block_shape` raises."""
    with pytest.raises(RequestError, match=words):
        plan(shape, Accelerator.find("H200", count=count))


@pytest.mark.parametrize("shape", known_models().values(), ids=known_models())
def test_every_known_model_is_dealt_to_two(shape: ModelShape) -> None:
    assert not shape.undivided(Accelerator.find("H100", count=2))


@pytest.mark.parametrize(("shape", "count"), [(PHI, 5), (PHI, 20), (QWEN, 16)])
def test_so_many_devices_share_a_layer(shape: ModelShape, count: int) -> None:
    assert plan(shape, Accelerator.find("H100", count=count))


def test_a_remedy_names_no_count_that_the_heads_refuse() -> None:
    """Four or eight devices would hold it, and ten KV heads go to neither."""
    small = replace(Accelerator.find("L4"), memory_bytes=8 * GIB)

    with pytest.raises(PlanError, match=r"use \S+\.$") as raised:
        plan(PHI, small, cache_format="bf16")
    assert " of " not in raised.value.message.rpartition(": ")[2]


@pytest.mark.parametrize("field", ["prompt_tokens", "output_tokens", "concurrency"])
def test_an_empty_workload_is_refused(field: str) -> None:
    with pytest.raises(RequestError, match=f"{camel(field)} is 0"):
        Workload(**{field: 0})


@pytest.mark.parametrize(
    "limits",
    [
        {"max_sequences": 0},
        {"utilization_percent": 0},
        {"utilization_percent": 9},
        {"utilization_percent": 100},
        {"max_batched_tokens": 8, "max_sequences": 9},
    ],
)
def test_impossible_limits_are_refused_by_the_names_of_the_resource(limits: dict[str, int]) -> None:
    with pytest.raises(RequestError, match=camel(next(iter(limits)))):
        Limits(**limits)


def test_older_versions_take_more_for_sampling() -> None:
    """Real starts of Qwen3-14B, of the same vocabulary, on an H100: 5.64 GiB, then 2.23."""
    many = Limits(max_sequences=1024)
    taken = [
        plan(QWEN, H100, limits=many, engine_version=version).line("activations") / GIB
        for version in ("0.16", "0.17")
    ]

    assert taken == pytest.approx([5.64, 2.23], rel=0.02)


@pytest.mark.parametrize("size_bytes", [GIB, -GIB])
def test_what_earlier_starts_taught_stands_in_the_account(size_bytes: int) -> None:
    fixed = Limits(max_sequences=64)
    usual, again = (
        plan(QWEN, H100, limits=fixed, cache_format="fp8", correction=Correction(size_bytes=size))
        for size in (0, size_bytes)
    )

    assert again.line("learned") == size_bytes
    assert again.cache_bytes == usual.cache_bytes - size_bytes


def test_a_device_that_ran_full_is_used_less() -> None:
    made = plan(QWEN, H100, correction=Correction(utilization_points=3))

    assert made.utilization_percent == 89
    assert "because the device ran full" in made.choices[3].reason

"""Recurrent models: every sequence that runs has a block of states, or vLLM does not start."""

import pytest

from kvarn.planner import Accelerator, Limits, PlanError, plan
from kvarn.planner.catalogue import known_models

NEMOTRON = known_models()["nvidia/Nemotron-H-56B-Base-8K"]
H200 = Accelerator.find("H200")


def test_more_sequences_than_blocks_are_refused() -> None:
    """As `CompilationConfig.resolve_cudagraph_mode_and_sizes` does."""
    with pytest.raises(PlanError) as caught:
        plan(NEMOTRON, H200, limits=Limits(max_sequences=256))

    message = caught.value.message
    assert caught.value.reason == "InsufficientMemory"
    assert "Each of 256 sequences needs a block of recurrent states, and the cache has 1" in message
    assert "leave maxSequences to the planner" in message


def test_the_remedies_help() -> None:
    assert plan(NEMOTRON, H200).max_sequences < 118
    made = plan(NEMOTRON, Accelerator.find("H200", count=2), limits=Limits(max_sequences=256))
    assert made.cache_blocks >= 256


def test_as_many_sequences_as_blocks_are_served() -> None:
    made = plan(NEMOTRON, H200, limits=Limits(max_sequences=100))

    assert (made.max_sequences, made.cache_blocks >= 100) == (100, True)


def test_without_states_sequences_may_wait_for_blocks() -> None:
    shape = known_models()["Qwen/Qwen2.5-7B-Instruct"]

    assert plan(shape, H200, limits=Limits(max_sequences=4096)).max_sequences == 4096

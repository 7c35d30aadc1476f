"""A rehearsal runs through, in Triton's interpreter as on a GPU."""

from functools import partial

import pytest
import torch

from kvarn.format import scratch as sizes
from kvarn.format.layout import FORMATS, TileLayout
from kvarn.kernels import triton
from kvarn.kernels.triton.places import SEQUENCES
from kvarn.kernels.triton.rehearsal import Layer, rehearse
from kvarn.kernels.triton.step import Step
from tests.kernels.library import library
from tests.kernels.steps import DEVICE

# Triton's interpreter counts loops with arrays of one number.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Conversion of an array with ndim > 0:DeprecationWarning"
)


def layer(*, name: str = "kvarn_k4v2_g128", tokens: int = 64, sequences: int = 2) -> Layer:
    return Layer(
        layout=TileLayout(FORMATS[name], 64),
        model=torch.bfloat16,
        device=DEVICE,
        heads=1,
        group=2,
        soft_cap=30.0,
        tokens=tokens,
        sequences=sequences,
    )


def batches(rehearsed: Layer) -> list[list[int]]:
    """Lengths after each step."""
    seen = []

    def see(step: Step, *_args: object, **_options: object) -> None:
        seen.append(step.batch.lengths.tolist())

    rehearse(see, rehearsed)
    return seen


@pytest.mark.parametrize("batch_invariant", [False, True])
def test_every_kind_of_step_runs(monkeypatch: pytest.MonkeyPatch, *, batch_invariant: bool) -> None:
    # Otherwise a history in two pieces takes the interpreter minutes.
    monkeypatch.setattr(sizes, "DENSE_BYTES", 0)
    prompts = None if batch_invariant else library
    attend = partial(triton.attend_and_store, batch_invariant=batch_invariant, prompts=prompts)
    rehearse(attend, layer())


def test_raw_tiles_are_rehearsed_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "DENSE_BYTES", 0)
    rehearse(triton.attend_and_store, layer(name="kvarn_raw_g128"))


def test_no_step_is_larger_than_the_engine_s() -> None:
    assert all(len(lengths) <= 8 for lengths in batches(layer(tokens=8)))


def test_large_batches_have_a_kernel_of_their_own() -> None:
    largest = max(map(len, batches(layer(sequences=SEQUENCES))))
    assert largest == 3
    assert max(map(len, batches(layer(sequences=SEQUENCES + 1)))) == SEQUENCES + 1


def test_layers_of_steps_of_other_sizes_are_equal() -> None:
    assert layer(tokens=8) == layer(tokens=64, sequences=5)
    assert hash(layer(tokens=8)) == hash(layer(tokens=64))

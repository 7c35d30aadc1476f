"""What `python -m bench.kernels` checks before it takes times, in Triton's interpreter."""

from dataclasses import replace

import pytest
import torch

from bench.kernels import gate, store
from bench.kernels.attention import RIVALS
from bench.kernels.implementation import TRITON
from bench.kernels.layer import Layer
from bench.kernels.shape import DEVICE, Shape, decode_shapes, prefill_shapes, store_shapes
from kvarn.format.layout import FORMATS, TILE_TOKENS

# Triton's interpreter counts loops with arrays of one number.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Conversion of an array with ndim > 0:DeprecationWarning"
)

K4V2 = FORMATS["kvarn_k4v2_g128"]
DECODE = Shape("decode", (192, 448, 64), (1, 1, 1), kv_heads=1, group=4, head_dim=64)
CLOSING = replace(DECODE, lengths=(256, 448, 128))
PROMPT = Shape("prompt", (192, 500), (1, 280), kv_heads=1, group=4, head_dim=64)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", [DECODE, PROMPT])
def test_the_kernels_pass(shape: Shape) -> None:
    assert Layer(shape, K4V2, TRITON).error() < gate.LIMITS["attention"]


def test_the_store_passes() -> None:
    for shape in (CLOSING, PROMPT):
        assert store.error(shape, K4V2, TRITON) < gate.LIMITS["store"]


def test_attention_of_other_tiles_does_not_pass() -> None:
    """Pages mixed up: the numbers look like attention, and are not this one."""

    def work(step, cache, **asked):  # type: ignore[no-untyped-def]
        other = replace(step, batch=replace(step.batch, table=step.batch.table.flip(0)))
        TRITON.work(other, cache, **asked)

    wrong = Layer(DECODE, K4V2, replace(TRITON, work=work)).error()
    assert wrong > gate.LIMITS["attention"]


def test_results_that_are_not_written_do_not_pass() -> None:
    silent = replace(TRITON, work=lambda *_, **__: None)
    assert not Layer(DECODE, K4V2, silent).error() < gate.LIMITS["attention"]


def test_a_cycle_completes_a_tile_of_each_sequence() -> None:
    taken = [step.batch.lengths for step in store.cycle(Layer(DECODE, K4V2, TRITON))]
    closing = sum((lengths % TILE_TOKENS == 0).int() for lengths in taken)
    assert closing.tolist() == [1, 1, 1]
    assert all(bool((each > 0).all() and each.max() <= 512) for each in taken)


def test_every_shape_has_a_check_of_its_kernels() -> None:
    """By query heads, channels and kind of step; on the same side of what batches decide."""
    attention, stores = decode_shapes() + prefill_shapes(), store_shapes()
    found = gate.checks(attention, stores, ["ours"], kernels="auto", rivals=RIVALS)
    for shape in attention:
        checked = [each for each in found if each.place == gate.place(shape)]
        assert {each.name for each in checked} >= {"ours", *(rival.name for rival in RIVALS)}
        assert any(shape.small() in each.shapes for each in checked)
        assert {each.kv_heads for each in checked[0].shapes} == {shape.kv_heads}
    assert sum(each.kind == "store" for each in found) == 2


def test_slots_are_where_the_table_has_the_tokens() -> None:
    shape = Shape("two", (35, 20), (1, 18))
    table = torch.tensor([[7, 5, 9], [4, 2, 1]], device=DEVICE)
    slots = shape.slots(table, 16).tolist()
    assert slots == [9 * 16 + 2, *(4 * 16 + row for row in range(2, 16)), *range(32, 36)]


def test_flops_are_those_of_a_causal_mask() -> None:
    shape = Shape.prompt(3, after=2, kv_heads=1, group=2, head_dim=64)
    assert shape.flops == 4 * (3 + 4 + 5) * 2 * 64

"""What attention of single tokens does beside: it keeps them in the tails, and stores tiles.

On a GPU the programs run at the same time; an emulator runs them one after another.
"""

import pytest
import torch

from kvarn.format.layout import FORMATS, TileLayout
from kvarn.kernels import triton
from kvarn.kernels.cuda import decode, store
from kvarn.kernels.triton.arguments import Attention
from tests.kernels import test_cuda_store
from tests.kernels.emulated import emulated
from tests.kernels.model import Model
from tests.kernels.steps import DEVICE
from tests.kernels.test_triton_store import check_the_rest, check_tiles

# Triton's interpreter counts loops with arrays of one number.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Conversion of an array with ndim > 0:DeprecationWarning"
)

ON_A_GPU = DEVICE.type == "cuda"
TIMES = 50 if ON_A_GPU else 2
TOLERANCE = {"rtol": 1e-2, "atol": 3e-2}


@pytest.fixture(autouse=True)
def _programs(monkeypatch: pytest.MonkeyPatch) -> None:
    if not ON_A_GPU:
        monkeypatch.setattr(decode, "load", lambda variant, _device: emulated(variant, 3))
        monkeypatch.setattr(
            store, "load", lambda variant, _device: test_cuda_store.program(variant)
        )
        monkeypatch.setattr(store, "is_supported", lambda *_: True)


def refuses(*_args: object, **_options: object) -> bool:
    raise AssertionError("the store was launched before attention")


def test_a_step_does_all_that_a_layer_does() -> None:
    """Two of the tokens complete tiles, and what lies around them is left alone."""
    layout = TileLayout(FORMATS["kvarn_k4v2_g128"], 64)
    model = Model(layout, [256, 200, 20, 128], dtype=torch.bfloat16)
    step = {member: (length - 1, length) for member, length in enumerate(model.lengths)}
    model.run({member: (0, begin) for member, (begin, _) in step.items()})
    before = model.packed.clone(), model.tail.clone()
    model.run(step)
    want = [out[-1].float() for out in model.out]
    model.kernels = triton
    model.options = {"single_tokens": decode.attend_single_tokens, "store": refuses}
    for _ in range(TIMES):
        model.packed.copy_(before[0])
        model.tail.copy_(before[1])
        model.run(step)
        check_tiles(model)
        check_the_rest(model)
        for out, one in zip(model.out, want, strict=True):
            torch.testing.assert_close(out[-1].float(), one, **TOLERANCE)


def test_a_chunk_may_end_one_token_into_a_tile() -> None:
    """The token goes to the first row of the tail, which the chunk's other tokens read."""
    layout = TileLayout(FORMATS["kvarn_k4v2_g128"], 64)
    alone, beside = (
        Model(layout, [129], dtype=torch.float16, kernels=triton, options=options)
        for options in ({}, {"single_tokens": decode.attend_single_tokens})
    )
    for model in (alone, beside):
        model.run({0: (0, 118)})
        model.run({0: (118, 129)})
    assert torch.equal(beside.out[0][:128], alone.out[0][:128])
    beside.check()
    check_the_rest(beside)


def test_without_a_program_for_the_tiles_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "is_supported", lambda *_: False)
    model = Model(TileLayout(FORMATS["kvarn_k4v2_g128"], 64), [140], dtype=torch.bfloat16)
    model.run({0: (0, 139)})
    query, keys, values = (of[0][-1:] for of in (model.query, model.keys, model.values))
    out = torch.full_like(query, torch.nan)
    attention = Attention(query, keys, values, out, scale=model.scale, soft_cap=0.0)
    step, cache = triton.prepare(model.batch({0: (139, 140)})), model.cache([0])
    assert not decode.attend_single_tokens(step, cache, attention, stores=True)
    assert bool(out.isnan().all())

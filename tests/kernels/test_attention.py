"""Steps over pages give what the reference gives for whole sequences, however they are cut."""

from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kvarn.format.layout import FORMATS, HEAD_DIMS, TILE_TOKENS, TileFormat, TileLayout
from kvarn.format.packing import decode
from kvarn.format.reference import dequantise, quantise
from kvarn.kernels import plain, triton
from tests.kernels.model import Model
from tests.kernels.steps import BLOCKS, DEVICE

# Triton's interpreter counts loops with arrays of one number.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Conversion of an array with ndim > 0:DeprecationWarning"
)

K4V2 = FORMATS["kvarn_k4v2_g128"]

both = pytest.mark.parametrize("kernels", [plain, triton], ids=["plain", "triton"])
formats = pytest.mark.parametrize("tile_format", FORMATS.values(), ids=FORMATS)


def _layouts() -> list[TileLayout]:
    """All of them on a GPU. The interpreter is slow: there, every code's and every dimension."""
    return [
        TileLayout(tile_format, head_dim)
        for tile_format in FORMATS.values()
        for head_dim in HEAD_DIMS
        if DEVICE.type == "cuda" or head_dim in {64, 80} or tile_format.name == "kvarn_k4v3_g128"
    ]


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@formats
def test_a_whole_prompt_and_then_single_tokens(tile_format: TileFormat, head_dim: int) -> None:
    model = Model(TileLayout(tile_format, head_dim), [260, 131])
    model.run({0: (0, 250), 1: (0, 126)})
    for token in range(10):
        batch = {0: (250 + token, 251 + token)}
        if token < 5:
            batch[1] = (126 + token, 127 + token)
        model.run(batch)
    model.check()


@formats
def test_a_tiny_soft_cap_weighs_all_tokens_alike(tile_format: TileFormat) -> None:
    """On a CPU: packed and raw ones; then every result is the mean of what a query sees."""
    layout = TileLayout(tile_format, 64)
    capped = Model(layout, [160], options={"soft_cap": 1e-3})
    capped.run_in_chunks([150])
    keys, values = (rows[0].transpose(0, 1).float() for rows in (capped.keys, capped.values))
    _, stored = dequantise(layout, quantise(layout, keys[:, :128], values[:, :128]))
    seen = torch.cat([stored, values[:, 128:]], dim=1).cumsum(1)[:, 128:]
    want = seen / torch.arange(129, 161, device=DEVICE)[:, None]
    got = capped.out[0][128:].unflatten(1, (-1, capped.group)).transpose(0, 1)
    torch.testing.assert_close(got, want[:, :, None].expand_as(got), atol=1e-2, rtol=0)


def test_a_large_soft_cap_changes_nothing() -> None:
    free = Model(TileLayout(K4V2, 64), [200], options={"soft_cap": 1e4})
    free.run_in_chunks([150])
    free.check()


@pytest.mark.parametrize(
    "layout", _layouts(), ids=lambda layout: f"{layout.format.name}-{layout.head_dim}"
)
def test_single_tokens_across_the_border_of_a_tile(layout: TileLayout) -> None:
    """The one before it completes the tile, and the one after it reads that packed."""
    model = Model(layout, [130, 3], heads=1, kernels=triton, dtype=torch.float16)
    model.run({0: (0, 127), 1: (0, 1)})
    for token in (127, 128, 129):
        model.run({0: (token, token + 1), 1: (max(token - 127, 1), max(token - 126, 1))})
    model.check()


@both
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_models(kernels: ModuleType, dtype: torch.dtype) -> None:
    model = Model(TileLayout(K4V2, 128), [300], dtype=dtype, kernels=kernels)
    model.run_in_chunks([100])
    model.check()


@settings(max_examples=12, deadline=None)
@given(
    tile_format=st.sampled_from(sorted(FORMATS.values(), key=str)),
    lengths=st.lists(st.integers(1, 600), min_size=1, max_size=4),
    sizes=st.lists(st.integers(20, 300), min_size=4, max_size=4),
    group=st.sampled_from([1, 3, 8]),
    seed=st.integers(0, 1000),
)
def test_any_lengths_in_any_chunks(
    tile_format: TileFormat, lengths: list[int], sizes: list[int], group: int, seed: int
) -> None:
    model = Model(TileLayout(tile_format, 64), lengths, group=group, seed=seed)
    model.run_in_chunks(sizes)
    model.check()


def test_closed_tiles_are_packed_and_nothing_else_is_written() -> None:
    model = Model(TileLayout(K4V2, 64), [300])
    model.run({0: (0, 300)})
    layout, pages = model.layout, model.table[0, :2]
    want = quantise(
        layout,
        *(
            rows[0][:256].view(2, TILE_TOKENS, 2, 64).transpose(1, 2)
            for rows in (model.keys, model.values)
        ),
    )
    got = decode(layout, model.packed[pages].flatten(-2))
    assert all(torch.equal(got[name], want[name]) for name in layout.fields)
    others = [page for page in range(BLOCKS) if page not in pages.tolist()]
    assert bool((model.packed[others] == 255).all())
    assert model.tail.isfinite().sum() == 44 * 2 * 2 * 64


@both
def test_a_sequence_may_read_a_tile_that_another_completes_in_the_same_step(
    kernels: ModuleType,
) -> None:
    """Two sequences share their first page; the reader comes first in the batch."""
    model = Model(TileLayout(K4V2, 64), [140, 140], kernels=kernels, dtype=torch.float16)
    for rows in (model.query, model.keys, model.values):
        rows[0][:128] = rows[1][:128]
    model.table[0, 0] = model.table[1, 0]
    model.run({0: (128, 140), 1: (0, 140)})
    model.out[0][:128] = model.out[1][:128]
    model.check()


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered:RuntimeWarning")  # the null page
@both
def test_dummy_batches_write_nothing(kernels: ModuleType) -> None:
    """Their tables point at the null page."""
    model = Model(TileLayout(K4V2, 64), [300], kernels=kernels)
    model.table[:] = 0
    model.tail_page[:] = 0
    model.run({0: (0, 300)})
    assert bool((model.packed == 255).all())
    assert bool(model.tail.isnan().all())

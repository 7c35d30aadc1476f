"""Tiles and tails as Triton writes them are those of the reference, and nothing else is written."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvarn.format.layout import FORMATS, HEAD_DIMS, TILE_TOKENS, TileLayout
from kvarn.format.packing import decode
from kvarn.format.reference import Tile, dequantise, quantise
from kvarn.kernels.triton.step import prepare
from kvarn.kernels.triton.store import store_tiles
from kvarn.kernels.triton.tail import write_tails
from tests.kernels.steps import DEVICE, World, joined


def run(
    world: World,
    chunks: dict[int, tuple[int, int]],
    *,
    padding: int = 0,
    faults: torch.Tensor | None = None,
) -> None:
    """One step: for each sequence, the tokens from which to which."""
    step, cache = prepare(world.batch(chunks, padding=padding)), world.cache(list(chunks))
    keys, values = (joined(rows, chunks) for rows in (world.keys, world.values))
    store_tiles(step, cache, keys=keys, values=values, faults=faults)
    write_tails(step, cache, keys=keys, values=values)


def whole_tiles(world: World) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of all complete tiles ``[n, H, 128, D]``, in the order of the table."""

    def tiles(rows: list[torch.Tensor]) -> torch.Tensor:
        whole = [row[: len(row) // TILE_TOKENS * TILE_TOKENS] for row in rows]
        return torch.cat(whole).unflatten(0, (-1, TILE_TOKENS)).transpose(1, 2)

    return tiles(world.keys), tiles(world.values)


def wanted(world: World) -> Tile:
    """What the reference makes of them."""
    return quantise(world.layout, *whole_tiles(world))


def pages(world: World) -> list[int]:
    """Of the complete tiles."""
    return [
        page
        for row, length in zip(world.table.tolist(), world.lengths, strict=True)
        for page in row[: length // TILE_TOKENS]
    ]


def steps_apart(got: torch.Tensor, want: torch.Tensor) -> torch.Tensor:
    """How many float16 lie between positive ones."""
    return (got.view(torch.int16) - want.view(torch.int16)).abs()


def check_tiles(world: World) -> None:
    """A code between two steps may fall to either side, and takes its scales a little along.

    So the codes may differ in few places and the scales little, and no tile may be farther from its
    rows for it.
    """
    got = decode(world.layout, world.packed[pages(world)].flatten(-2))
    want = wanted(world)
    if world.layout.format.is_raw:
        assert all(torch.equal(got[name], want[name]) for name in want)
        return
    for of in ("key", "value"):
        codes, token, channel, mean = (
            (got[f"{of}_{array}"], want[f"{of}_{array}"])
            for array in ("codes", "token_scale", "channel_scale", "mean")
        )
        apart = (codes[0] - codes[1]).abs()
        assert apart.max() <= 1
        assert apart.float().mean() < 5e-3
        for scales in (token, channel):
            assert steps_apart(*scales).float().mean() < 1
        step = channel[1].float() * token[1].float().mean(dim=-1, keepdim=True)
        assert bool(((mean[0] - mean[1]).float().abs() < step / 16 + 1e-3).all())
    errors = (squared_error(world, tile) for tile in (got, want))
    for ours, best in zip(*errors, strict=True):
        assert bool((ours <= 1.005 * best + 1e-6).all())


def squared_error(world: World, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the keys and of the values that a tile stands for, by tile and head."""
    keys, values = (
        (stands - rows.float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)).square().sum((-1, -2))
        for stands, rows in zip(dequantise(world.layout, tile), whole_tiles(world), strict=True)
    )
    return keys, values


def check_the_rest(world: World) -> None:
    """Tails hold the open rows, and everything else is as it was."""
    written = pages(world)
    others = [page for page in range(len(world.packed)) if page not in written]
    assert bool((world.packed[others] == 255).all())
    tail = world.tail.clone()
    for page, keys, values in zip(world.tail_page.tolist(), world.keys, world.values, strict=True):
        open_rows = len(keys) % TILE_TOKENS
        if open_rows:
            rows = torch.cat([keys, values], dim=-1)[-open_rows:].transpose(0, 1)
            assert torch.equal(tail[page, :, :open_rows], rows)
        tail[page] = torch.nan
    assert bool(tail.isnan().all())


def chunks(length: int, size: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, length, size):
        yield begin, min(begin + size, length)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(name: str) -> None:
    """A prompt, and the tokens that complete its second tile: half of that comes from the tail."""
    world = World(TileLayout(FORMATS[name], 64), [256], dtype=torch.float16)
    run(world, {0: (0, 190)})
    run(world, {0: (190, 256)})
    check_tiles(world)
    check_the_rest(world)


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
@pytest.mark.parametrize("name", ["kvarn_k4v3_g128", "kvarn_raw_g128"])
def test_every_head_dimension(name: str, head_dim: int) -> None:
    world = World(TileLayout(FORMATS[name], head_dim), [130], heads=1, dtype=torch.float16)
    run(world, {0: (0, 127)})
    run(world, {0: (127, 130)})
    check_tiles(world)
    check_the_rest(world)


@settings(max_examples=10, deadline=None)
@given(
    name=st.sampled_from(sorted(FORMATS)),
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    sizes=st.lists(st.integers(90, 300), min_size=3, max_size=3),
    seed=st.integers(0, 1000),
)
@example(name="kvarn_k4v2_g128", lengths=[67], sizes=[90, 90, 90], seed=822)
def test_any_lengths_in_any_chunks(
    name: str, lengths: list[int], sizes: list[int], seed: int
) -> None:
    world = World(TileLayout(FORMATS[name], 64), [*lengths, 128], heads=1, seed=seed)
    plans = {member: list(chunks(length, sizes[member])) for member, length in enumerate(lengths)}
    plans[len(lengths)] = [(0, 128)]
    while batch := {member: plan.pop(0) for member, plan in plans.items() if plan}:
        run(world, batch)
    check_tiles(world)
    check_the_rest(world)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["kvarn_k4v2_g128", "kvarn_raw_g128"])
def test_models_of_every_precision(name: str, dtype: torch.dtype) -> None:
    world = World(TileLayout(FORMATS[name], 128), [140], dtype=dtype)
    run(world, {0: (0, 140)})
    check_tiles(world)
    check_the_rest(world)


def test_keys_with_a_bias() -> None:
    world = World(TileLayout(FORMATS["kvarn_k4v2_g128"], 64), [128], dtype=torch.float16)
    world.bias(200)
    run(world, {0: (0, 128)})
    check_tiles(world)


# A sum that ends a loop is an array of one number to the interpreter.
@pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")
@pytest.mark.parametrize("padding", [1, 300], ids="padding={}".format)
def test_single_tokens_in_a_padded_batch(padding: int) -> None:
    """Two of the tokens complete tiles. Many segments are shared out among fewer programs."""
    world = World(TileLayout(FORMATS["kvarn_k4v4_g128"], 64), [128, 31, 256])
    run(world, {0: (0, 127), 1: (0, 30), 2: (0, 255)})
    run(world, {0: (127, 128), 1: (30, 31), 2: (255, 256)}, padding=padding)
    check_tiles(world)
    check_the_rest(world)


@pytest.mark.parametrize("tokens", [300, 1])
def test_dummy_batches_write_nothing(tokens: int) -> None:
    """Their tables point at the null page, in vLLM's warm-up and where it pads a batch."""
    world = World(TileLayout(FORMATS["kvarn_k4v2_g128"], 64), [384])
    world.table[:] = 0
    world.tail_page[:] = 0
    run(world, {0: (384 - tokens, 384)})
    run(world, {0: (200 - tokens if tokens == 1 else 0, 200)})
    assert bool((world.packed == 255).all())
    assert bool(world.tail.isnan().all())


# It is looked for in what the first product made of it.
@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")
def test_what_is_not_finite_counts_as_zero_and_is_counted() -> None:
    world = World(TileLayout(FORMATS["kvarn_k4v3_g128"], 192), [128], dtype=torch.bfloat16)
    faults = torch.ones(1, dtype=torch.int64, device=DEVICE)
    world.keys[0][5, 1, 7:9] = torch.nan
    world.values[0][100, 0, 0] = -torch.inf
    run(world, {0: (0, 128)}, faults=faults)
    assert faults.item() == 1 + 3
    check_tiles(world)


def test_raw_tiles_hold_what_is_not_finite_and_count_it() -> None:
    world = World(TileLayout(FORMATS["kvarn_raw_g128"], 80), [128], dtype=torch.bfloat16)
    faults = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    world.values[0][3, 1, 4] = torch.inf
    run(world, {0: (0, 128)}, faults=faults)
    assert faults.item() == 1
    check_tiles(world)


def test_a_tile_of_zeros_stays_one() -> None:
    world = World(TileLayout(FORMATS["kvarn_k4v2_g128"], 64), [128])
    for rows in (world.keys[0], world.values[0]):
        rows.zero_()
    run(world, {0: (0, 128)})
    got = decode(world.layout, world.packed[pages(world)].flatten(-2))
    scales = [name for name in got if name.endswith("scale")]
    assert all(bool((got[name] == 2.0**-24).all()) for name in scales)
    assert all(bool((got[f"{of}_mean"].abs() <= 2.0**-24).all()) for of in ("key", "value"))

"""Tiles as CUDA C++ writes them are those of the reference, and nothing else is written.

On a GPU the program runs there; elsewhere an emulator takes it apart, thread by thread.
"""

import ctypes
from dataclasses import dataclass
from functools import cache

import pytest
import torch

from kvarn.format.layout import FORMATS, HEAD_DIMS, TILE_TOKENS, TileLayout
from kvarn.format.packing import decode
from kvarn.kernels.cuda import store
from kvarn.kernels.cuda.program import binary_of
from kvarn.kernels.cuda.store import MAIN, Program, Variant, launch, load, store_tiles
from kvarn.kernels.triton.step import prepare
from tests.kernels.compiled import SHARED_BYTES, Binary, look_into
from tests.kernels.emulated import library
from tests.kernels.steps import DEVICE, World, joined
from tests.kernels.test_triton_store import check_the_rest, check_tiles, pages


@dataclass(frozen=True)
class Emulated:
    """A program on the host."""

    library: ctypes.CDLL

    def store(self, arguments: ctypes.Structure, grid: tuple[int, int]) -> None:
        self.library.launch_store(*grid, ctypes.byref(arguments))


@cache
def program(variant: Variant) -> Program:
    if DEVICE.type == "cuda":
        return load(variant, DEVICE)
    return Emulated(library("emulate_store.cpp", variant.constants))


def run(
    world: World,
    chunks: dict[int, tuple[int, int]],
    *,
    padding: int = 0,
    faults: torch.Tensor | None = None,
) -> None:
    """One step: for each sequence, the tokens from which to which; open tiles into the tails."""
    step, cache = prepare(world.batch(chunks, padding=padding)), world.cache(list(chunks))
    keys, values = (joined(rows, chunks) for rows in (world.keys, world.values))
    variant = Variant(world.layout, world.dtype)
    launch(program(variant), step, cache, keys=keys, values=values, faults=faults)
    for member, (begin, end) in chunks.items():
        first = max(begin, end // TILE_TOKENS * TILE_TOKENS)
        page = world.tail[world.tail_page[member]]
        rows = torch.cat([world.keys[member], world.values[member]], dim=-1)[first:end]
        page[:, first % TILE_TOKENS :][:, : len(rows)] = rows.transpose(0, 1)


@pytest.mark.parametrize(
    ("name", "head_dim", "dtype"),
    [
        ("kvarn_k4v2_g128", 128, torch.bfloat16),
        ("kvarn_k3v3_g128", 64, torch.float16),
        ("kvarn_k3v3_g128", 80, torch.bfloat16),
        ("kvarn_k4v3_g128", 96, torch.float16),
        ("kvarn_k4v4_g128", 192, torch.bfloat16),
        ("kvarn_k4v2_g128", 256, torch.float16),
        ("kvarn_k4v3_g128", 512, torch.bfloat16),
    ],
)
def test_formats(name: str, head_dim: int, dtype: torch.dtype) -> None:
    """A tile from the tail but for its last row, then tokens that begin the next."""
    world = World(TileLayout(FORMATS[name], head_dim), [130], heads=1, dtype=dtype)
    run(world, {0: (0, 127)})
    assert bool((world.packed == 255).all())
    run(world, {0: (127, 130)})
    check_tiles(world)
    check_the_rest(world)


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_keys_with_a_bias(head_dim: int) -> None:
    name = "kvarn_k3v3_g128" if head_dim == 64 else "kvarn_k4v2_g128"
    world = World(TileLayout(FORMATS[name], head_dim), [128], heads=1, dtype=torch.float16)
    world.bias(200)
    run(world, {0: (0, 128)})
    check_tiles(world)


def test_prompts_of_several_tiles() -> None:
    """Heads lie apart, tiles straddle the tail and the step, and a whole one is in the step."""
    world = World(TileLayout(FORMATS["kvarn_k3v3_g128"], 64), [384, 128], dtype=torch.float16)
    run(world, {0: (0, 70)})
    run(world, {0: (70, 384), 1: (0, 128)})
    check_tiles(world)
    check_the_rest(world)


@pytest.mark.parametrize("padding", [1, 300], ids="padding={}".format)
def test_single_tokens_in_a_padded_batch(padding: int) -> None:
    """Two of the tokens complete tiles. Many segments are shared out among fewer blocks."""
    layout = TileLayout(FORMATS["kvarn_k3v3_g128"], 64)
    world = World(layout, [128, 31, 256], dtype=torch.float16)
    run(world, {0: (0, 127), 1: (0, 30), 2: (0, 255)})
    run(world, {0: (127, 128), 1: (30, 31), 2: (255, 256)}, padding=padding)
    check_tiles(world)
    check_the_rest(world)


def test_tiles_of_one_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where blocks have many segments, one after another may complete a tile."""
    monkeypatch.setattr(store, "BLOCKS", 1)
    layout = TileLayout(FORMATS["kvarn_k3v3_g128"], 64)
    world = World(layout, [128, 128, 7, 128], heads=1, dtype=torch.float16)
    run(world, {member: (0, length - 1) for member, length in enumerate(world.lengths)})
    run(world, {member: (length - 1, length) for member, length in enumerate(world.lengths)})
    check_tiles(world)
    check_the_rest(world)


@pytest.mark.parametrize("tokens", [384, 1])
def test_dummy_batches_write_nothing(tokens: int) -> None:
    """Their tables point at the null page."""
    layout = TileLayout(FORMATS["kvarn_k3v3_g128"], 64)
    world = World(layout, [384], dtype=torch.float16)
    world.table[:] = 0
    world.tail_page[:] = 0
    run(world, {0: (384 - tokens, 384)})
    assert bool((world.packed == 255).all())


@pytest.mark.parametrize(
    ("head_dim", "dtype"),
    [(64, torch.float16), (128, torch.bfloat16), (256, torch.float16), (512, torch.bfloat16)],
)
def test_what_is_not_finite_counts_as_zero_and_is_counted(
    head_dim: int, dtype: torch.dtype
) -> None:
    name = {64: "k3v3", 128: "k4v2", 256: "k4v2", 512: "k4v3"}[head_dim]
    layout = TileLayout(FORMATS[f"kvarn_{name}_g128"], head_dim)
    world = World(layout, [128], heads=1, dtype=dtype)
    faults = torch.ones(1, dtype=torch.int64, device=DEVICE)
    world.keys[0][5, 0, 7:9] = torch.nan
    world.values[0][100, 0, -1] = -torch.inf
    run(world, {0: (0, 128)}, faults=faults)
    assert faults.item() == 1 + 3
    check_tiles(world)


def test_a_tile_of_zeros_stays_one() -> None:
    layout = TileLayout(FORMATS["kvarn_k4v2_g128"], 128)
    world = World(layout, [128], heads=1, dtype=torch.bfloat16)
    for rows in (world.keys[0], world.values[0]):
        rows.zero_()
    run(world, {0: (0, 128)})
    got = decode(world.layout, world.packed[pages(world)].flatten(-2))
    scales = [name for name in got if name.endswith("scale")]
    assert all(bool((got[name] == 2.0**-24).all()) for name in scales)
    assert all(bool((got[f"{of}_mean"].abs() <= 2.0**-24).all()) for of in ("key", "value"))


def test_others_are_left_to_triton() -> None:
    """Raw tiles and models in float32 have no program, and nothing is done."""
    for name, dtype in (("kvarn_raw_g128", torch.float16), ("kvarn_k4v2_g128", torch.float32)):
        world = World(TileLayout(FORMATS[name], 64), [128], dtype=dtype)
        step, cache = prepare(world.batch({0: (0, 128)})), world.cache([0])
        assert not store_tiles(step, cache, keys=world.keys[0], values=world.values[0])
        assert bool((world.packed == 255).all())


def binary(head_dim: int, capability: int) -> Binary:
    variant = Variant(TileLayout(FORMATS["kvarn_k4v2_g128"], head_dim), torch.bfloat16)
    return look_into("store", binary_of(MAIN, variant.constants, f"sm_{capability}"))


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_stays_in_registers(head_dim: int) -> None:
    assert binary(head_dim, 90).stack_bytes == 0


@pytest.mark.parametrize("capability", [100, 120])
def test_on_later_gpus_too(capability: int) -> None:
    assert binary(128, capability).stack_bytes == 0


@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_fits_into_shared_memory(head_dim: int) -> None:
    """Twice up to 128 channels, so that one block computes while the other waits."""
    for tile_format in FORMATS.values():
        if not tile_format.is_raw:
            asked = Variant(TileLayout(tile_format, head_dim), torch.bfloat16).shared_bytes
            assert asked * (2 if head_dim <= 128 else 1) < SHARED_BYTES[90]

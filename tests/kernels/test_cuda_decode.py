"""Attention of single tokens in CUDA C++ gives what the others give, wherever its pieces end.

On a GPU the program runs there; elsewhere an emulator takes it apart, thread by thread.
"""

import pytest
import torch

from kvarn.format.layout import FORMATS, TileLayout
from kvarn.format.reference import dequantise, quantise
from kvarn.kernels import triton
from kvarn.kernels.cuda.decode import attend_single_tokens, launch, variant_for
from kvarn.kernels.cuda.program import Program, load
from kvarn.kernels.cuda.source import Variant
from kvarn.kernels.triton import memory
from kvarn.kernels.triton.arguments import Attention
from tests.kernels.emulated import emulated
from tests.kernels.model import Model
from tests.kernels.steps import DEVICE, joined


def program(variant: Variant, blocks: int) -> Program:
    return load(variant, DEVICE) if DEVICE.type == "cuda" else emulated(variant, blocks)


def attended(model: Model, batch: dict[int, tuple[int, int]], *, blocks: int) -> torch.Tensor:
    """What the program makes of a step that the model has not made yet."""
    query = joined(model.query, batch)
    attention = Attention(
        query=query,
        keys=joined(model.keys, batch),
        values=joined(model.values, batch),
        out=torch.full_like(query, torch.nan),
        scale=model.scale,
        soft_cap=float(model.options.get("soft_cap", 0.0)),
    )
    cache = model.cache(list(batch))
    variant = variant_for(cache, attention)
    launch(program(variant, blocks), triton.prepare(model.batch(batch)), cache, attention)
    return attention.out


def check(model: Model, batch: dict[int, tuple[int, int]], *, blocks: int = 3) -> None:
    """Compare a step's single tokens with the reference, and make the step."""
    got = attended(model, batch, blocks=blocks)
    model.run(batch)
    want = joined(model.out, batch)
    single = torch.tensor(
        [end - begin == 1 for begin, end in batch.values() for _ in range(begin, end)]
    )
    assert bool(got[~single].isnan().all())
    torch.testing.assert_close(got[single].float(), want[single].float(), rtol=1e-2, atol=3e-2)
    assert (got - want)[single].float().norm() < 5e-3 * want[single].float().norm()


@pytest.mark.parametrize(
    ("name", "head_dim", "group", "dtype"),
    [
        ("kvarn_k4v2_g128", 128, 4, torch.bfloat16),
        ("kvarn_k4v4_g128", 80, 3, torch.float16),
        ("kvarn_k3v3_g128", 64, 8, torch.bfloat16),
        ("kvarn_k4v3_g128", 96, 1, torch.float16),
        ("kvarn_k4v2_g128", 256, 5, torch.bfloat16),
        ("kvarn_k3v3_g128", 192, 2, torch.bfloat16),
        ("kvarn_k4v2_g128", 512, 2, torch.float16),
        ("kvarn_k4v4_g128", 64, 12, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("blocks", [3, 40])
def test_single_tokens(
    name: str, head_dim: int, group: int, dtype: torch.dtype, blocks: int
) -> None:
    """Histories of none, one and several tiles; own tiles of one row, and full ones."""
    lengths = [390, 5, 256, 129]
    model = Model(TileLayout(FORMATS[name], head_dim), lengths, group=group, dtype=dtype)
    model.run({member: (0, length - 2) for member, length in enumerate(lengths)})
    for back in (2, 1):
        step = {member: (length - back, length - back + 1) for member, length in enumerate(lengths)}
        check(model, step, blocks=blocks)


def small(lengths: list[int], **options: object) -> Model:
    layout = TileLayout(FORMATS["kvarn_k4v2_g128"], 64)
    return Model(layout, lengths, dtype=torch.float16, options=options)


def test_single_tokens_beside_prompts() -> None:
    """Prompts are others' work, and leave their rows alone."""
    mixed = small([300, 140, 200])
    mixed.run({0: (0, 299), 1: (0, 20), 2: (0, 199)})
    check(mixed, {0: (299, 300), 1: (20, 140), 2: (199, 200)})


def test_tokens_are_kept_in_the_tails_unless_they_complete_them() -> None:
    kept = small([140, 128])
    kept.run({0: (0, 139), 1: (0, 127)})
    tails = kept.tail.clone()
    attended(kept, {0: (139, 140), 1: (127, 128)}, blocks=3)
    page = int(kept.tail_page[0])
    tails[page, :, 11] = torch.cat([kept.keys[0][139], kept.values[0][139]], dim=-1)
    torch.testing.assert_close(kept.tail, tails, equal_nan=True, rtol=0, atol=0)


def test_dummy_sequences_and_rows_of_padding_are_left_alone() -> None:
    """The batch of a captured graph: starts repeat, lengths are zero, page 0 is nobody's."""
    padded = small([140, 20])
    padded.run({0: (0, 139), 1: (0, 19)})
    padded.tail_page[1] = 0
    tail = padded.tail[0].clone()
    batch = padded.batch({0: (139, 140), 1: (19, 20)}, padding=40)
    out = torch.full((5, *padded.query[0].shape[1:]), torch.nan, dtype=torch.float16, device=DEVICE)
    rows = (padded.query, padded.keys, padded.values)
    query, keys, values = (torch.cat([of[0][-1:], of[1][-1:], of[0][:3]]) for of in rows)
    attention = Attention(query, keys, values, out, scale=padded.scale, soft_cap=0.0)
    cache = padded.cache([0, 1])
    cache.tail_page.resize_(42)[2:] = 0
    variant = Variant(padded.layout, torch.float16, group=padded.group, soft_cap=False)
    launch(program(variant, 3), triton.prepare(batch), cache, attention)
    assert bool(out[0].isfinite().all())
    assert bool(out[2:].isnan().all())
    torch.testing.assert_close(padded.tail[0], tail, equal_nan=True)


def test_a_tiny_soft_cap_weighs_all_tokens_alike() -> None:
    """Then the result is the mean of what the query sees."""
    capped = small([160], soft_cap=1e-3)
    free = small([160])
    free.run({0: (0, 159)})
    capped.packed, capped.tail = free.packed, free.tail
    got = attended(capped, {0: (159, 160)}, blocks=3).float()
    keys, values = (rows[0].transpose(0, 1).float() for rows in (free.keys, free.values))
    _, stored = dequantise(free.layout, quantise(free.layout, keys[:, :128], values[:, :128]))
    want = torch.cat([stored, values[:, 128:]], dim=1).mean(1)
    want = want[:, None].expand(-1, free.group, -1).reshape(got.shape[1:])
    torch.testing.assert_close(got[0], want, atol=2e-2, rtol=0)


def test_results_that_do_not_fit_into_memory_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the runs of one segment of two heads."""
    crowded = small([260, 130])
    variant = Variant(crowded.layout, torch.float16, group=crowded.group, soft_cap=False)
    runs = program(variant, 3).blocks + 2 * 2
    monkeypatch.setattr(memory, "PARTIAL_BYTES", 4 * (runs * 2 * 65 + 2 * 4))
    crowded.run({0: (0, 259), 1: (0, 129)})
    check(crowded, {0: (259, 260), 1: (129, 130)})


def test_rows_that_lie_askew_are_left_to_others() -> None:
    """Loads are of 16 bytes."""
    askew = small([20])
    query = torch.zeros(2 * askew.query[0][:1].numel(), dtype=torch.float16, device=DEVICE)
    query = query[1:].view(-1)[: askew.query[0][:1].numel()].view_as(askew.query[0][:1])
    keys, values = askew.keys[0][:1], askew.values[0][:1]
    out = torch.zeros_like(askew.query[0][:1])
    attention = Attention(query, keys, values, out, scale=1.0, soft_cap=0.0)
    step = triton.prepare(askew.batch({0: (0, 1)}))
    assert not attend_single_tokens(step, askew.cache([0]), attention)

"""Segments of one token: their histories and own tiles in runs, then the runs joined."""

import ctypes
from collections.abc import Callable
from functools import partial
from math import e, log2

from kvarn.kernels.batch import LayerCache
from kvarn.kernels.cuda import store
from kvarn.kernels.cuda.arguments import (
    Pages,
    Rows,
    Segments,
    are_aligned,
    pages_of,
    rows_of,
    segments_of,
)
from kvarn.kernels.cuda.program import JOIN_WARPS, Program, load
from kvarn.kernels.cuda.source import Variant, is_supported, sharing
from kvarn.kernels.triton.arguments import Attention
from kvarn.kernels.triton.memory import scratch
from kvarn.kernels.triton.step import Step

_JOIN_WORDS = 4
"""Size of decode.cu's `Join`."""


class _Arguments(ctypes.Structure):
    """Those of decode.cu."""

    _fields_ = (
        ("query", Rows),
        ("keys", Rows),
        ("values", Rows),
        ("tail", Pages),
        ("packed", Pages),
        ("segments", Segments),
        ("sums", ctypes.c_void_p),
        ("exponents", ctypes.c_void_p),
        ("joins", ctypes.c_void_p),
        ("out", Rows),
        ("heads", ctypes.c_int),
        ("sharing", ctypes.c_int),
        ("factor", ctypes.c_float),
        ("cap", ctypes.c_float),
        ("programs", ctypes.c_int),
        ("joiners", ctypes.c_int),
    )


def attend_single_tokens(
    step: Step, cache: LayerCache, attention: Attention, *, stores: bool = False
) -> bool:
    """Attention of the segments that have one token, if there is a program for it.

    Their tokens are kept in the tails as well.

    Args:
        step: the batch; its tensors are int32.
        cache: the layer's pages, earlier tiles stored.
        attention: what is asked.
        stores: whether tiles that the step completes are stored as well, while attention ends. No
            segment may then have more than one token, and no sequence read a tile that another
            completes.

    Returns:
        whether it was done; if not, nothing was.
    """
    query = attention.query
    rows = (query, attention.keys, attention.values, attention.out)
    if not is_supported(cache.layout, query.dtype, group=attention.group):
        return False
    if not are_aligned(*rows, cache.tail, cache.packed):
        return False
    if stores and not store.is_supported(cache.layout, attention.keys.dtype, query.device):
        return False
    beside = partial(_store, step, cache, attention) if stores else None
    program = load(variant_for(cache, attention), query.device)
    launch(program, step, cache, attention, beside=beside)
    return True


def _store(step: Step, cache: LayerCache, attention: Attention) -> None:
    keys, values = attention.keys, attention.values
    program = store.load(store.Variant(cache.layout, keys.dtype), keys.device)
    store.launch(program, step, cache, keys=keys, values=values, faults=cache.faults, beside=True)


def variant_for(cache: LayerCache, attention: Attention) -> Variant:
    """What a layer's program is compiled for."""
    group = attention.group // sharing(attention.group)
    return Variant(
        cache.layout, attention.query.dtype, group=group, soft_cap=attention.soft_cap != 0
    )


def launch(
    program: Program,
    step: Step,
    cache: LayerCache,
    attention: Attention,
    *,
    beside: Callable[[], None] | None = None,
) -> None:
    """Launch a program for as many segments at a time as there is room for results of.

    `beside` launches what runs while attention ends, and is done before tails change.
    """
    heads = attention.keys.shape[1] * sharing(attention.group)
    memory = scratch(attention.query.device).partial()
    group = attention.query.shape[1] // heads
    run = program.partners * group * (attention.query.shape[2] + 1)
    at_once = (len(memory) - program.blocks * run) // (heads * (2 * run + _JOIN_WORDS))
    sums = heads * at_once * _JOIN_WORDS
    exponents = sums + (program.blocks + 2 * heads * at_once) * (run - program.partners * group)
    arguments = _Arguments(
        query=rows_of(attention.query),
        keys=rows_of(attention.keys),
        values=rows_of(attention.values),
        tail=pages_of(cache.tail),
        packed=pages_of(cache.packed),
        joins=memory.data_ptr(),
        sums=memory[sums:].data_ptr(),
        exponents=memory[exponents:].data_ptr(),
        out=rows_of(attention.out),
        heads=heads,
        sharing=sharing(attention.group),
        factor=attention.scale * (log2(e) if attention.soft_cap == 0 else 1),
        cap=attention.soft_cap,
        programs=program.blocks,
    )
    for first in range(0, step.segments, at_once):
        count = min(at_once, step.segments - first)
        queries = count * attention.query.shape[1]
        arguments.segments = segments_of(step, cache, first=first, count=count)
        arguments.joiners = _joiners(program.blocks * program.partners, queries)
        program.attend(arguments)
        if beside and not first:
            beside()
        program.combine(arguments, -(-queries * arguments.joiners // JOIN_WARPS))


def _joiners(results: int, queries: int) -> int:
    """Warps that join the results of a query: about one for every two, a power of two."""
    share = max(results // queries // 2, 1)
    return min(1 << share.bit_length() - 1, JOIN_WARPS)

"""Segments of one token: their histories and own tiles in runs, then the runs joined."""

import ctypes
from typing import Any

import torch

from kvarn.format.layout import TileLayout
from kvarn.kernels.batch import LayerCache
from kvarn.kernels.cuda.program import JOIN_WARPS, Program, load
from kvarn.kernels.cuda.source import Variant, is_supported, sharing
from kvarn.kernels.triton.arguments import Attention
from kvarn.kernels.triton.memory import scratch
from kvarn.kernels.triton.step import Step

LOG2_E = 1.4426950408889634

_JOIN_WORDS = 4
"""Size of decode.cu's `Join`."""


class _Rows(ctypes.Structure):
    _fields_ = (
        ("pointer", ctypes.c_void_p),
        ("token_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
    )


class _Pages(ctypes.Structure):
    _fields_ = (
        ("pointer", ctypes.c_void_p),
        ("page_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
    )


class _Segments(ctypes.Structure):
    _fields_ = (
        ("starts", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("sequence", ctypes.c_void_p),
        ("tile", ctypes.c_void_p),
        ("table", ctypes.c_void_p),
        ("table_stride", ctypes.c_int64),
        ("tail_page", ctypes.c_void_p),
        ("tail_stride", ctypes.c_int64),
        ("first", ctypes.c_int),
        ("count", ctypes.c_int),
    )


class _Arguments(ctypes.Structure):
    """Those of decode.cu."""

    _fields_ = (
        ("query", _Rows),
        ("keys", _Rows),
        ("values", _Rows),
        ("tail", _Pages),
        ("packed", _Pages),
        ("segments", _Segments),
        ("sums", ctypes.c_void_p),
        ("exponents", ctypes.c_void_p),
        ("joins", ctypes.c_void_p),
        ("out", _Rows),
        ("heads", ctypes.c_int),
        ("sharing", ctypes.c_int),
        ("factor", ctypes.c_float),
        ("cap", ctypes.c_float),
        ("programs", ctypes.c_int),
        ("joiners", ctypes.c_int),
    )


def attend_single_tokens(step: Step, cache: LayerCache, attention: Attention) -> bool:
    """Attention of the segments that have one token, if there is a program for it.

    Their tokens are kept in the tails as well.

    Args:
        step: the batch; its tensors are int32.
        cache: the layer's pages, complete tiles stored.
        attention: what is asked.

    Returns:
        whether it was done; if not, nothing was.
    """
    query = attention.query
    if not is_supported(cache.layout, query.dtype, group=attention.group):
        return False
    launch(load(variant_for(cache, attention), query.device), step, cache, attention)
    return True


def variant_for(cache: LayerCache, attention: Attention) -> Variant:
    """What a layer's program is compiled for."""
    group = attention.group // sharing(attention.group)
    return Variant(
        cache.layout, attention.query.dtype, group=group, soft_cap=attention.soft_cap != 0
    )


def make_ready(layout: TileLayout, query: torch.Tensor, *, group: int) -> None:
    """Compile and load the program for queries of this type and device, if there is one."""
    if is_supported(layout, query.dtype, group=group):
        variant = Variant(layout, query.dtype, group=group // sharing(group), soft_cap=False)
        load(variant, query.device)


def launch(program: Program, step: Step, cache: LayerCache, attention: Attention) -> None:
    """Launch a program for as many segments at a time as there is room for results of."""
    heads = attention.keys.shape[1] * sharing(attention.group)
    memory = scratch(attention.query.device).partial()
    group = attention.query.shape[1] // heads
    run = program.partners * group * (attention.query.shape[2] + 1)
    at_once = (len(memory) - program.blocks * run) // (heads * (2 * run + _JOIN_WORDS))
    sums = heads * at_once * _JOIN_WORDS
    exponents = sums + (program.blocks + 2 * heads * at_once) * (run - program.partners * group)
    arguments = _Arguments(
        query=_rows(attention.query),
        keys=_rows(attention.keys),
        values=_rows(attention.values),
        tail=_pages(cache.tail),
        packed=_pages(cache.packed),
        joins=memory.data_ptr(),
        sums=memory[sums:].data_ptr(),
        exponents=memory[exponents:].data_ptr(),
        out=_rows(attention.out),
        heads=heads,
        sharing=sharing(attention.group),
        factor=attention.scale * (LOG2_E if attention.soft_cap == 0 else 1),
        cap=attention.soft_cap,
        programs=program.blocks,
    )
    for first in range(0, step.segments, at_once):
        count = min(at_once, step.segments - first)
        queries = count * attention.query.shape[1]
        arguments.segments = _segments(step, cache, first, count)
        arguments.joiners = _joiners(program.blocks * program.partners, queries)
        program.attend(arguments)
        program.combine(arguments, -(-queries * arguments.joiners // JOIN_WARPS))


def _joiners(results: int, queries: int) -> int:
    """Warps that join the results of a query: about one for every two, a power of two."""
    share = results // queries // 2
    return min(max(1 << share.bit_length() - 1, 1) if share else 1, JOIN_WARPS)


def _rows(rows: torch.Tensor) -> _Rows:
    return _Rows(rows.data_ptr(), rows.stride(0), rows.stride(1))


def _pages(pages: torch.Tensor) -> _Pages:
    size = pages.element_size()
    return _Pages(pages.data_ptr(), pages.stride(0) * size, pages.stride(1) * size)


def _segments(step: Step, cache: LayerCache, first: int, count: int) -> _Segments:
    batch = step.batch
    return _Segments(
        starts=_integers(batch.starts),
        lengths=_integers(batch.lengths),
        sequence=_integers(step.segment_sequence),
        tile=_integers(step.segment_tile),
        table=_integers(batch.table),
        table_stride=batch.table.stride(0),
        tail_page=_integers(cache.tail_page),
        tail_stride=cache.tail_page.stride(0),
        first=first,
        count=count,
    )


def _integers(tensor: Any) -> int | None:
    if tensor is None:
        return None
    if tensor.dtype != torch.int32:
        raise TypeError(f"the batch must be int32, and a tensor of it is {tensor.dtype}")
    address: int = tensor.data_ptr()
    return address

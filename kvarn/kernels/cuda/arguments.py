"""The structures of batch.cuh, from tensors."""

import ctypes

import torch

from kvarn.kernels.batch import LayerCache
from kvarn.kernels.triton.step import Step

ALIGNMENT = 16
"""Bytes of the widest loads."""


class Rows(ctypes.Structure):
    """``[tokens, heads, D]``, channels contiguous; strides in elements."""

    _fields_ = (
        ("pointer", ctypes.c_void_p),
        ("token_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
    )


class Pages(ctypes.Structure):
    """``[blocks, H, …]``, what a head has contiguous; strides in bytes."""

    _fields_ = (
        ("pointer", ctypes.c_void_p),
        ("page_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
    )


class Segments(ctypes.Structure):
    """A step's segments, and where their pages are in one layer."""

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


def are_aligned(*tensors: torch.Tensor) -> bool:
    """Whether kernels can load 16 bytes at a time wherever a head of a token or page begins."""
    return all(
        number * tensor.element_size() % ALIGNMENT == 0
        for tensor in tensors
        for number in (tensor.data_ptr() // tensor.element_size(), *tensor.stride()[:2])
    )


def rows_of(rows: torch.Tensor) -> Rows:
    """All of a tensor."""
    return Rows(rows.data_ptr(), rows.stride(0), rows.stride(1))


def pages_of(pages: torch.Tensor) -> Pages:
    """All of a tensor."""
    size = pages.element_size()
    return Pages(pages.data_ptr(), pages.stride(0) * size, pages.stride(1) * size)


def segments_of(step: Step, cache: LayerCache, *, first: int, count: int) -> Segments:
    """Some segments of a step.

    Raises:
        TypeError: a tensor of the batch is not int32.
    """
    batch = step.batch
    return Segments(
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


def _integers(tensor: torch.Tensor | None) -> int | None:
    if tensor is None:
        return None
    if tensor.dtype != torch.int32:
        raise TypeError(f"the batch must be int32, and a tensor of it is {tensor.dtype}")
    return tensor.data_ptr()

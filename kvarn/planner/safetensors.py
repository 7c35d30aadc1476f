"""Weight bytes from safetensors files, of which only the headers are read.

A file begins with the header's length (8 bytes, little endian) and the header, a JSON object that
gives each tensor's `dtype`, `shape` and `data_offsets`.
"""

import json
import operator
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from kvarn.planner.config_file import ConfigView, load_config
from kvarn.planner.errors import ShapeError
from kvarn.planner.shape import DTYPE_BYTES

LONGEST_HEADER_BYTES = 100_000_000
"""The format's own limit."""

FLOATS = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's entry in a header.

    Attributes:
        dtype: safetensors' name of its type.
        shape: its dimensions.
        data_offsets: where its bytes begin and end.
    """

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]


def folder_weight_bytes(folder: Path, dtype: str) -> int | None:
    """Bytes of a folder's weights as vLLM holds them; None where it has no safetensors files.

    Raises:
        ShapeError: a file is damaged or missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        paths = sorted(folder / name for name in _file_names(index))
    else:
        paths = sorted(folder.glob("model*.safetensors"))
    absent = [path for path in paths if not path.exists()]
    if absent and len(absent) < len(paths):
        raise ShapeError(
            "UnreadableWeights",
            f"{len(absent)} of {len(paths)} weight files are missing, {absent[0].name} the first;"
            " fetch them.",
        )
    if absent or not paths:
        return None
    return held_bytes((tensor for path in paths for tensor in read_header(path)), dtype)


def _file_names(index: Path) -> set[str]:
    names = list(ConfigView(load_config(index)).mapping("weight_map").values())
    if not names or not all(isinstance(name, str) for name in names):
        raise ShapeError("UnreadableWeights", f"{index} names no weight files; fetch it again.")
    return set(names)


def read_header(path: Path) -> list[Tensor]:
    """The tensors in the file at `path`.

    Raises:
        ShapeError: the file is not a whole safetensors file.
    """
    try:
        with path.open("rb") as stream:
            return _header(stream)
    except (OSError, KeyError, TypeError, ValueError, struct.error) as error:
        raise ShapeError(
            "UnreadableWeights", f"{path} is no whole safetensors file ({error}); fetch it again."
        ) from error


def _header(stream: BinaryIO) -> list[Tensor]:
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > LONGEST_HEADER_BYTES:
        raise ValueError(f"its header claims {length} bytes")
    header = dict(json.loads(stream.read(length)))
    header.pop("__metadata__", None)
    return [_tensor(entry) for entry in header.values()]


def _tensor(entry: Mapping[str, Any]) -> Tensor:
    begin, end = map(operator.index, entry["data_offsets"])
    return Tensor(entry["dtype"], tuple(map(operator.index, entry["shape"])), (begin, end))


def held_bytes(tensors: Iterable[Tensor], dtype: str) -> int:
    """Bytes in memory: vLLM casts floating-point numbers to `dtype`; codes stay as they are."""
    return sum(
        prod(tensor.shape) * DTYPE_BYTES[dtype]
        if tensor.dtype in FLOATS
        else tensor.data_offsets[1] - tensor.data_offsets[0]
        for tensor in tensors
    )

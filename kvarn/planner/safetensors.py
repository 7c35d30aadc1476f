"""Weight bytes from safetensors files, of which only the headers are read.

A file begins with the header's length (8 bytes, little endian) and the header, a JSON object that
gives each tensor's `dtype`, `shape` and `data_offsets`.
"""

import json
import struct
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from kvarn.planner.config_file import load_config
from kvarn.planner.errors import ShapeError
from kvarn.planner.shape import DTYPE_BYTES

LONGEST_HEADER_BYTES = 100_000_000
"""The format's own limit."""

FLOATS = ("F64", "F32", "F16", "BF16")


def folder_weight_bytes(folder: Path, dtype: str) -> int | None:
    """Bytes of a folder's weights as vLLM holds them; None where it has no safetensors files.

    Raises:
        ShapeError: a file is damaged or missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = set(load_config(index).get("weight_map", {}).values())
        paths = sorted(folder / name for name in names)
    else:
        paths = sorted(folder.glob("model*.safetensors"))
    absent = [path for path in paths if not path.exists()]
    if absent and len(absent) < len(paths):
        raise ShapeError(
            "UnreadableWeights",
            f"{len(absent)} of {len(paths)} weight files are missing, {absent[0].name} the first;"
            " fetch them.",
        )
    return held_bytes(map(read_header, paths), dtype) if paths and not absent else None


def read_header(path: Path) -> dict[str, Any]:
    """The header of the file at `path`.

    Raises:
        ShapeError: the file is not a whole safetensors file.
    """
    try:
        with path.open("rb") as stream:
            header = _header(stream)
    except (OSError, TypeError, ValueError, struct.error) as error:
        raise ShapeError(
            "UnreadableWeights", f"{path} is no whole safetensors file ({error}); fetch it again."
        ) from error
    return header


def _header(stream: BinaryIO) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > LONGEST_HEADER_BYTES:
        raise ValueError(f"its header claims {length} bytes")
    header = json.loads(stream.read(length))
    return dict(header)


def held_bytes(headers: Iterable[dict[str, Any]], dtype: str) -> int:
    """Bytes in memory of all tensors: plain weights take `dtype`, codes and scales their own.

    vLLM casts floating-point weights to the type that it computes in. In a quantised checkpoint
    (one with a tensor that is no float) scales keep theirs; they are few.
    """
    tensors = [
        tensor for header in headers for name, tensor in header.items() if name != "__metadata__"
    ]
    return sum(_tensor_bytes(tensor, DTYPE_BYTES[dtype]) for tensor in tensors)


def _tensor_bytes(tensor: dict[str, Any], float_bytes: int) -> int:
    if tensor["dtype"] in FLOATS:
        return int(prod(tensor["shape"])) * float_bytes
    begin, end = tensor["data_offsets"]
    return int(end - begin)

"""Weight bytes from safetensors files, of which only the headers are read.

A file begins with the header's length (8 bytes, little endian) and the header, a JSON object that
gives each tensor's `dtype`, `shape` and `data_offsets`.
"""

import json
import operator
import re
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from kvarn.planner.config_file import ConfigView, load_config
from kvarn.planner.errors import ShapeError
from kvarn.planner.shape import DTYPE_BYTES
from kvarn.planner.towers import TOWERS

LONGEST_HEADER_BYTES = 100_000_000
"""The format's own limit."""

FLOATS = ("F64", "F32", "F16", "BF16")

_LAYER = re.compile(r"(?:model|language_model|backbone|\.)+layers\.(\d+)\.")
_AHEAD = re.compile(r"(?:.+\.)?mtp(?:_layers)?\.")
"""Modules that guess tokens ahead, which vLLM loads for speculation alone."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's entry in a header.

    Attributes:
        name: in the model.
        dtype: safetensors' name of its type.
        shape: its dimensions.
        data_offsets: where its bytes begin and end.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]


def folder_weight_bytes(folder: Path, dtype: str, config: Mapping[str, Any]) -> int | None:
    """Bytes of a folder's weights that vLLM loads; None where it has no safetensors files.

    Args:
        folder: with the files.
        dtype: what vLLM computes in.
        config: the folder's.

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
    tensors = (tensor for path in paths for tensor in read_header(path))
    return loaded_bytes(tensors, dtype, config)


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
    return [_tensor(name, entry) for name, entry in header.items()]


def _tensor(name: str, entry: Mapping[str, Any]) -> Tensor:
    begin, end = map(operator.index, entry["data_offsets"])
    return Tensor(name, entry["dtype"], tuple(map(operator.index, entry["shape"])), (begin, end))


def loaded_bytes(tensors: Iterable[Tensor], dtype: str, config: Mapping[str, Any]) -> int:
    """Bytes of the tensors that vLLM loads for a model with `config`.

    It casts floating-point numbers to `dtype`; codes stay as they are.

    Raises:
        ShapeError: the config's number of layers is none.
    """
    layers = _layer_count(config)
    return sum(_held_bytes(each, dtype) for each in tensors if _is_loaded(each.name, layers))


def _held_bytes(tensor: Tensor, dtype: str) -> int:
    if tensor.dtype in FLOATS:
        return prod(tensor.shape) * DTYPE_BYTES[dtype]
    return tensor.data_offsets[1] - tensor.data_offsets[0]


def _is_loaded(name: str, layers: int) -> bool:
    """Whether a tensor is none of a module that guesses tokens ahead.

    Some models number these on, after the last layer (`get_spec_layer_idx_from_weight_name`).
    """
    layer = _LAYER.match(name)
    beyond = layer is not None and layers and int(layer[1]) >= layers
    return not (beyond or _AHEAD.match(name))


def _layer_count(config: Mapping[str, Any]) -> int:
    """Layers of the language model, which may be a part of the whole; 0 where it is not said."""
    parts = [part for key, part in config.items() if key not in TOWERS and isinstance(part, dict)]
    counts = (ConfigView(part).count("num_hidden_layers") for part in (config, *parts))
    return next(filter(None, counts), 0)

"""Weight bytes from the headers of safetensors files."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from kvarn.planner import ShapeError, read_shape
from tests.planner.builders import real_config


def write_weights(path: Path, **tensors: tuple[str, list[int], int]) -> None:
    """A file with a true header and no data: only headers are read."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(real_config("Qwen3-8B")))
    return tmp_path


def test_plain_weights_take_the_type_that_vllm_computes_in(folder: Path) -> None:
    write_weights(folder / "model.safetensors", a=("F32", [10, 10], 400), b=("BF16", [50], 100))

    assert read_shape(folder).weight_bytes == 2 * 150


def test_codes_take_the_bytes_that_they_have(folder: Path) -> None:
    write_weights(folder / "model.safetensors", a=("F8_E4M3", [8, 8], 64), b=("I32", [8], 32))

    assert read_shape(folder).weight_bytes == 96


def test_an_index_names_the_files_that_count(folder: Path) -> None:
    """Some folders hold the same weights twice, in another layout."""
    write_weights(folder / "model-1.safetensors", a=("BF16", [4], 8))
    write_weights(folder / "model-2.safetensors", b=("BF16", [6], 12))
    write_weights(folder / "consolidated.safetensors", a=("BF16", [10], 20))
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    assert read_shape(folder).weight_bytes == 20


def test_a_half_fetched_folder_says_what_is_missing(folder: Path) -> None:
    write_weights(folder / "model-1.safetensors", a=("BF16", [4], 8))
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(ShapeError, match=r"1 of 2 weight files are missing, model-2\.safetensors"):
        read_shape(folder)


@pytest.mark.parametrize("weight_map", [None, [], ["a"], {}, {"a": 3}, {"a": None}, {"a": []}])
def test_an_index_that_names_no_files_is_named(weight_map: object, folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))

    with pytest.raises(ShapeError, match=r"index\.json names no weight files; fetch it again"):
        read_shape(folder)


def test_weights_measured_in_files_need_no_known_quantisation(folder: Path) -> None:
    config = real_config("Qwen3-8B", quantization_config={"quant_method": "exotic"})
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(folder / "model.safetensors", a=("U8", [64], 64))

    assert read_shape(folder).weight_bytes == 64


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01\x00",
        struct.pack("<Q", 1 << 60),
        struct.pack("<Q", 5) + b"[1,2]",
        struct.pack("<Q", 4) + b'{"a"',
        struct.pack("<Q", 9) + b'{"a":"b"}',
        *(
            struct.pack("<Q", len(text)) + text
            for text in (
                b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": []}}',
                b'{"a": {"dtype": "U8", "shape": [1], "data_offsets": ["0", "1"]}}',
                b'{"a": {"dtype": "BF16", "shape": ["1"], "data_offsets": [0, 2]}}',
            )
        ),
    ],
)
def test_a_damaged_file_is_named(data: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(data)

    with pytest.raises(ShapeError, match=r"model\.safetensors is no whole safetensors file"):
        read_shape(folder)

"""Weight bytes from the headers of safetensors files."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvarn.planner import ShapeError, hub, read_shape
from kvarn.planner.accelerators import GIB
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


def test_experts_in_mxfp4_are_filled_up_in_memory_whatever_their_files_have(tmp_path: Path) -> None:
    """Two recorded starts took 64.38 and 65.97 GiB; the files have 60.77."""
    config = real_config("gpt-oss-120b")
    (tmp_path / "config.json").write_text(json.dumps(config))
    layers, experts, hidden = 36, 128, 2880
    codes, scales = 3 * hidden * hidden // 2, 3 * hidden * hidden // 32
    biases, attention, embedding = 4 * hidden, 2 * hidden * (4096 + 512), 2 * hidden * 201088
    write_weights(
        tmp_path / "model.safetensors",
        **{
            f"model.layers.{layer}.mlp.experts": ("U8", [1], experts * (codes + scales))
            for layer in range(layers)
        },
        others=("BF16", [layers * (experts * biases // 2 + attention) + embedding], 0),
    )

    measured, computed = read_shape(tmp_path), read_shape(config)
    assert measured.weight_bytes == pytest.approx(computed.weight_bytes, rel=0.002)
    assert measured.expert_bytes == pytest.approx(computed.expert_bytes, rel=0.002)
    assert 64.3 < measured.weight_bytes / GIB < 66


def test_latent_attention_keeps_copies_that_no_file_has(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(real_config("DeepSeek-V2-Lite")))
    write_weights(tmp_path / "model.safetensors", a=("BF16", [10**9], 2 * 10**9))
    layers, heads, rank, nope, value = 27, 16, 512, 128, 128

    copies = 2 * layers * heads * rank * (nope + value)
    assert read_shape(tmp_path).weight_bytes == 2 * 10**9 + copies


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("model.layers.35.mlp.up_proj.weight", True),
        ("model.layers.36.mlp.up_proj.weight", False),
        ("model.language_model.layers.36.mlp.up_proj.weight", False),
        ("visual.layers.36.mlp.weight", True),
        ("mtp.layers.0.mlp.up_proj.weight", False),
        ("model.mtp_layers.0.mlp.up_proj.weight", False),
        ("model.embed_tokens.weight", True),
    ],
)
def test_layers_that_guess_tokens_ahead_are_not_loaded(
    name: str, *, held: bool, folder: Path
) -> None:
    write_weights(folder / "model.safetensors", a=("BF16", [4], 8), **{name: ("BF16", [6], 12)})

    assert read_shape(folder).weight_bytes == (20 if held else 8)


def test_the_language_model_s_layers_count_where_it_is_a_part(folder: Path) -> None:
    config = {"text_config": real_config("Qwen3-8B"), "vision_config": {"num_hidden_layers": 99}}
    (folder / "config.json").write_text(json.dumps(config))
    guess = {"model.layers.36.a": ("BF16", [6], 12)}
    write_weights(folder / "model.safetensors", a=("BF16", [4], 8), **guess)

    assert read_shape(folder).weight_bytes == 8


def test_a_hub_s_headers_say_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {
        "model.layers.35.a": SimpleNamespace(dtype="BF16", shape=[4], data_offsets=(0, 8)),
        "model.layers.36.a": SimpleNamespace(dtype="BF16", shape=[6], data_offsets=(8, 20)),
        "lm_head": SimpleNamespace(dtype="F8_E4M3", shape=[5], data_offsets=(20, 25)),
    }
    files = SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=tensors)})
    monkeypatch.setattr(hub, "_config_path", lambda *_: folder / "config.json")
    monkeypatch.setattr(hub, "_fetch_beside", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.get_safetensors_metadata", lambda *_, **__: files)

    assert hub.hub_shape("some/model").weight_bytes == 8 + 5

"""Which models a cache format does not serve: on a device, by a release of vLLM.

What vLLM refuses stands in its attention backends: a layer gets the first that takes its head
dimension, its cache and its traits, and a start fails where none does (0.32 and 0.33).
"""

import re
from collections.abc import Callable, Iterable

from kvarn.format.layout import HEAD_DIMS, TileFormat, TileLayout, fewest_layers, tail_bytes
from kvarn.format.releases import SUPPORTED
from kvarn.planner.accelerators import FP8_CAPABILITY, Accelerator
from kvarn.planner.shape import ModelShape
from kvarn.planner.version import EngineVersion

OLDEST_CAPABILITY = 8.0
"""Compute capability from where on tiles have kernels, and FlashInfer runs."""
FLASHINFER_HEAD_DIMS = (64, 128, 256, 512)
"""Before `FP8_CAPABILITY`, FlashInfer alone reads a cache in fp8: `triton_attn.py` and
`triton_mla.py` raise, and `flash_attn_supports_kv_cache_dtype` wants 9.0."""
FLASHINFER_LACKS = ("sinks", "images")
"""Traits of attention that FlashInfer does not serve there."""

SPARSE_CAPABILITY = 9.0
SPARSE_FP8_MAJOR = 12
"""From where on, and where in 8 bits alone, sparse latent attention has kernels
(`supports_compute_capability` of the backends in `mla/`)."""
BFLOAT16_ARCHITECTURES = re.compile(r"(Gemma2|Gemma3|Glm4)(For|Model|TextModel)")
"""Models that vLLM computes in float32 where there is no bfloat16
(`_FLOAT16_NOT_SUPPORTED_MODELS`)."""

TILED_TRAITS = ("softcap",)
"""Those that the kernels for tiles have."""


def dtype_on(shape: ModelShape, device: Accelerator) -> str:
    """What vLLM computes in on the device: before Ampere there is no bfloat16."""
    lacking = _is_before_ampere(device) and shape.dtype == "bfloat16"
    return "float16" if lacking else shape.dtype


def refuse_plain(shape: ModelShape, device: Accelerator, _version: EngineVersion) -> str:
    """Why the model's own precision does not serve it on the device; empty if it does."""
    if shape.is_sparse and int(device.capability) == SPARSE_FP8_MAJOR:
        return (
            f"a GPU of compute capability {device.capability}, whose sparse attention reads fp8"
            " alone"
        )
    return _refuse_any(shape, device)


def _refuse_any(shape: ModelShape, device: Accelerator) -> str:
    """Why no cache serves the model on the device; empty if one does."""
    if shape.is_sparse and device.is_cpu:
        return "sparse attention on a CPU"
    if shape.is_sparse and 0 < device.capability < SPARSE_CAPABILITY:
        return _too_old(device, "sparse attention needs", SPARSE_CAPABILITY)
    if _is_before_ampere(device) and BFLOAT16_ARCHITECTURES.match(shape.architecture):
        return _too_old(device, "the model in bfloat16 needs", OLDEST_CAPABILITY)
    return ""


def _is_before_ampere(device: Accelerator) -> bool:
    return 0 < device.capability < OLDEST_CAPABILITY


def refuse_fp8(shape: ModelShape, device: Accelerator, _version: EngineVersion) -> str:
    """Why fp8 does not serve the model on the device; empty if it does."""
    if refused := _refuse_any(shape, device):
        return refused
    if device.is_cpu:
        return "fp8 on a CPU needs AVX-512, which a plan cannot see"
    if not 0 < device.capability < FP8_CAPABILITY:
        return ""
    if _is_before_ampere(device):
        return _too_old(device, "fp8 needs", OLDEST_CAPABILITY)
    what = _unfit_for_flashinfer(shape)
    return _too_old(device, f"{what} in fp8 needs", FP8_CAPABILITY) if what else ""


def _too_old(device: Accelerator, what_needs: str, capability: float) -> str:
    return f"a GPU of compute capability {device.capability}; {what_needs} {capability}"


def _unfit_for_flashinfer(shape: ModelShape) -> str:
    if any(kind.kind == "latent" for kind in shape.kinds):
        return "latent attention"
    widths = {kind.head_dim for kind in shape.kinds if kind.kv_heads}
    if unknown := widths.difference(FLASHINFER_HEAD_DIMS):
        return f"a head dimension of {max(unknown)}"
    return _attention(trait for trait in shape.attention_traits if trait in FLASHINFER_LACKS)


def refuse_tiles(
    tile_format: TileFormat, shape: ModelShape, device: Accelerator, version: EngineVersion
) -> str:
    """Why tiles of a format do not serve the model on the device; empty if they do."""
    if refused := _refuse_any(shape, device):
        return refused
    if device.is_amd:
        return "an AMD device; tiles have kernels for NVIDIA's GPUs alone"
    if version.name not in SUPPORTED:
        return f"vLLM {version.name}; tiles need {' or '.join(SUPPORTED)}"
    if _is_before_ampere(device):
        return _too_old(device, "tiles need", OLDEST_CAPABILITY)
    for kind in shape.kinds:
        if kind.kind in _UNTILED:
            return _UNTILED[kind.kind]
    unfit = next((words for words, fails in _UNFIT if fails(shape)), "")
    traits = _attention(trait for trait in shape.attention_traits if trait not in TILED_TRAITS)
    return unfit or traits or _short_stages(tile_format, shape, device)


def _attention(traits: Iterable[str]) -> str:
    words = " and ".join(traits)
    return f"attention with {words}" if words else ""


def _short_stages(tile_format: TileFormat, shape: ModelShape, device: Accelerator) -> str:
    """Where the tiles of a stage are too few for a block that holds an open one of a layer.

    vLLM would ask that stage for the pages of another one's layers.
    """
    if device.stages == 1:
        return ""
    heads = device.kv_heads(shape.kv_heads)
    raw = tail_bytes(kv_heads=heads, head_dim=shape.head_dim, element_bytes=shape.dtype_bytes)
    packed = heads * TileLayout(tile_format, shape.head_dim).tile_bytes
    needed = fewest_layers(packed_bytes=packed, raw_bytes=raw)
    fewest = shape.fewest_tiled(device.stages)
    if fewest >= needed:
        return ""
    return f"a pipeline with {fewest} layers of full attention on a device; tiles need {needed}"


_UNFIT: tuple[tuple[str, Callable[[ModelShape], bool]], ...] = (
    (
        "every layer has a sliding window",
        lambda shape: not shape.tiled_kinds,
    ),
    (
        "layers whose heads differ",
        lambda shape: len({(kind.kv_heads, kind.head_dim) for kind in shape.kinds}) > 1,
    ),
    (
        "keys and values of different widths",
        lambda shape: any(kind.value_dim for kind in shape.kinds),
    ),
    ("no tile for the head dimension", lambda shape: shape.head_dim not in HEAD_DIMS),
)
_UNTILED = {
    "latent": "latent attention",
    "index": "sparse attention",
    "state": "recurrent layers",
    "chunk": "attention in chunks",
}

"""Which models a cache format does not serve: on a device, by a release of vLLM.

What vLLM refuses stands in its attention backends: a layer gets the first that takes its head
dimension, its cache and its traits, and a start fails where none does (0.32 and 0.33).
"""

from collections.abc import Callable, Iterable

from kvarn.format.layout import HEAD_DIMS, TileFormat, TileLayout, tail_bytes, tail_groups
from kvarn.format.releases import SUPPORTED
from kvarn.planner.accelerators import Accelerator
from kvarn.planner.shape import ModelShape
from kvarn.planner.version import EngineVersion

OLDEST_CAPABILITY = 8.0
"""Compute capability from where on tiles have kernels, and FlashInfer runs."""
FP8_CAPABILITY = 8.9
"""From where on Triton computes with fp8. Before that, FlashInfer alone reads such a cache:
`triton_attn.py` and `triton_mla.py` raise, and `flash_attn_supports_kv_cache_dtype` wants 9.0."""
FLASHINFER_HEAD_DIMS = (64, 128, 256, 512)
FLASHINFER_LACKS = ("sinks", "images")
"""Traits of attention that FlashInfer does not serve there."""

TILED_TRAITS = ("softcap",)
"""Those that the kernels for tiles have."""


def dtype_on(shape: ModelShape, device: Accelerator) -> str:
    """What vLLM computes in on the device: before Ampere there is no bfloat16."""
    old = 0 < device.capability < OLDEST_CAPABILITY
    return "float16" if old and shape.dtype == "bfloat16" else shape.dtype


def refuse_nothing(_shape: ModelShape, _device: Accelerator, _version: EngineVersion) -> str:
    """A cache in the model's own precision serves every model."""
    return ""


def refuse_fp8(shape: ModelShape, device: Accelerator, _version: EngineVersion) -> str:
    """Why fp8 does not serve the model on the device; empty if it does."""
    if device.is_cpu:
        return "fp8 on a CPU needs AVX-512, which a plan cannot see"
    if not 0 < device.capability < FP8_CAPABILITY:
        return ""
    if device.capability < OLDEST_CAPABILITY:
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
    if version.name not in SUPPORTED:
        return f"vLLM {version.name}; tiles need {' or '.join(SUPPORTED)}"
    if 0 < device.capability < OLDEST_CAPABILITY:
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
    """Where some stage has fewer tiled layers than there are groups of tail pages.

    vLLM would ask that stage for the pages of another one's layers. Layers with tiles are taken to
    lie at equal distances, as they do where others have a window.
    """
    if device.stages == 1:
        return ""
    tiled = sum(kind.layers for kind in shape.kinds if kind.kind == "full")
    heads = device.kv_heads(shape.kv_heads)
    groups = tail_groups(
        tiled,
        packed_bytes=heads * TileLayout(tile_format, shape.head_dim).tile_bytes,
        raw_bytes=tail_bytes(
            kv_heads=heads, head_dim=shape.head_dim, element_bytes=shape.dtype_bytes
        ),
    )
    fewest = shape.layers // device.stages * tiled // shape.layers
    if fewest >= groups:
        return ""
    return f"a pipeline with {fewest} layers of full attention on a device; tiles need {groups}"


_UNFIT: tuple[tuple[str, Callable[[ModelShape], bool]], ...] = (
    (
        "every layer has a sliding window",
        lambda shape: not any(kind.kind == "full" for kind in shape.kinds),
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

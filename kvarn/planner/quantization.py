"""Quantised weights: bits per number, from a config's `quantization_config`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvarn.planner.config_file import ConfigView
from kvarn.planner.errors import ShapeError

SCALE_BITS = 16


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How the matrices inside the layers are stored.

    Attributes:
        name: vLLM's name of the method; empty for plain weights.
        bits: average bits per number, scales included.
    """

    name: str
    bits: float


def weight_format(config: Mapping[str, Any], dtype_bytes: int) -> WeightFormat:
    """How the layers' matrices are stored.

    Raises:
        ShapeError: a method, or a mixture of formats, whose size only the files tell.
    """
    quantization = config.get("quantization_config") or config.get("compression_config")
    if not quantization:
        return WeightFormat("", 8 * dtype_bytes)
    view = ConfigView(quantization)
    name = view.word("quant_method")
    if kept := [layer for layer in _kept(view) if not _small(layer)]:
        raise _only_files(name, f"{len(kept)} of its layers stay unquantised")
    if name == "fp8":
        return WeightFormat(name, 8)
    if name in ("gptq", "awq"):
        return WeightFormat(name, _grouped(view.integer("bits"), view.integer("group_size")))
    if name == "compressed-tensors":
        return WeightFormat(name, _compressed(view))
    raise _only_files(name, "its sizes are not computed")


def _kept(view: ConfigView) -> tuple[str, ...]:
    names = (*view.sequence("ignore"), *view.sequence("modules_to_not_convert"))
    return tuple(map(str, names))


def _small(layer: str) -> bool:
    """Whether a layer left in full precision is one that is counted so anyway, or tiny."""
    return layer.endswith(("lm_head", "embed_tokens", "layernorm", "mlp.gate"))


def _grouped(bits: int, group: int) -> float:
    """Codes, and for each group one scale and one zero point."""
    return bits + (SCALE_BITS + bits) / group


def _compressed(view: ConfigView) -> float:
    schemes = [
        ConfigView(scheme["weights"])
        for scheme in view.mapping("config_groups").values()
        if isinstance(scheme, dict) and isinstance(scheme.get("weights"), dict)
    ]
    if len(schemes) != 1:
        raise _only_files("compressed-tensors", f"it has {len(schemes)} schemes")
    (scheme,) = schemes
    bits = scheme.integer("num_bits")
    if scheme.word("strategy") == "group":
        return bits + SCALE_BITS / scheme.integer("group_size")
    return float(bits)


def _only_files(name: str, why: str) -> ShapeError:
    return ShapeError(
        "UnknownWeightSize",
        f"The weights are quantised as {name or 'an unnamed method'} and {why}; plan from the"
        " folder that has the safetensors files, or state weightBytes in the shape.",
    )

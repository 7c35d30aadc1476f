"""Quantised weights: bits per number in each part of a model, from its config."""

import fnmatch
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kvarn.planner.config_file import ConfigView
from kvarn.planner.errors import ShapeError
from kvarn.planner.parameters import ATTENTION, EXPERTS, HEAD, MLP, SHARED

PLAIN_BITS = 16
SCALE_BITS = 16
FP8_BITS = 8 + 32 / 128**2
"""Codes, and a 32-bit scale for each block of 128 × 128."""
NVFP4_BITS = 4 + 8 / 16
"""Codes, and an 8-bit scale for 16 of them."""
MXFP4_BITS = 4 + 8 / 32
NF4_BITS = 4 + 8 / 64 + 32 / 64 / 256
"""Codes, an 8-bit scale for 64 of them, and 32 bits for 256 scales."""
MXFP4_MULTIPLE = 256
"""The kernels' granularity in the width of an expert."""

_MODULES = {
    ATTENTION: ("self_attn.q_proj", "linear_attn.in_proj_qkv"),
    MLP: ("mlp.gate_proj",),
    EXPERTS: ("mlp.experts.0.gate_proj",),
    SHARED: ("mlp.shared_experts.gate_proj",),
}
"""Modules of a layer that stand for each part of a model, as most configs name them."""
_SPELLINGS = (
    (
        re.compile(r"^(backbone|model\.language_model|language_model\.model)\.layers"),
        "model.layers",
    ),
    (re.compile(r"block_sparse_moe|feed_forward|mixer"), "mlp"),
    (re.compile(r"shared_expert(?!s)"), "shared_experts"),
)
"""Other names of the same modules."""


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """How the matrices inside the layers are stored.

    Attributes:
        name: vLLM's name of the method; empty for plain weights.
        bits: average bits per number, scales included.
        parts: the same for parts that are stored otherwise.
        group: numbers of a row that share a scale, where vLLM deals them to devices in such groups;
            0 where it does not, or is not known to.
        grouped: parts all of which are surely stored so.
    """

    name: str
    bits: float
    parts: Mapping[str, float] = field(default_factory=dict)
    group: int = 0
    grouped: frozenset[str] = frozenset()

    def bits_of(self, part: str) -> float:
        """Bits per number in `part` of the model."""
        return self.parts.get(part, self.bits)

    def group_of(self, part: str) -> int:
        """The group of `part` of the model; 0 unless all of it surely has one."""
        return self.group if part in self.grouped else 0


def weight_format(config: Mapping[str, Any], *, layers: int, name: str = "") -> WeightFormat:
    """How the layers' matrices are stored.

    Args:
        config: the model's.
        layers: how many it has.
        name: the model's, whose ending tells of a quantisation that NVIDIA's tools keep in a file
            of its own.

    Raises:
        ShapeError: a method whose size only the files tell.
    """
    quantization = config.get("quantization_config") or config.get("compression_config")
    if not quantization:
        quantization = _by_name(name)
    if not quantization:
        return WeightFormat("", PLAIN_BITS)
    if not isinstance(quantization, dict):
        raise _only_files(str(quantization), "its description is no object")
    view = ConfigView(quantization)
    named = _method(view)
    bits = _bits(view, named)
    beside = ConfigView(config).flag("enable_moe_block")
    parts = _parts(view, bits, layers, beside=beside)
    return WeightFormat(named, bits, parts, _group(view, named), frozenset(_parts_in_groups(view)))


def method(config: Mapping[str, Any]) -> str:
    """The name of the weights' quantisation; empty for plain weights."""
    return _method(ConfigView(ConfigView(config).mapping("quantization_config")))


def _method(view: ConfigView) -> str:
    return view.word("quant_method") or ("modelopt" if "quant_algo" in view else "")


def _by_name(name: str) -> dict[str, Any]:
    ending = re.search(r"-(FP8|NVFP4)$", name, re.IGNORECASE)
    return {"quant_method": "modelopt", "quant_algo": ending[1].upper()} if ending else {}


_WITH_GROUP_SIZE = ("gptq", "awq", "gptq_marlin", "awq_marlin")
"""Methods that state `group_size`."""


def _group(view: ConfigView, method: str) -> int:
    """`WeightFormat.group`."""
    if method == "fp8":
        return _block(view, "weight_block_size")
    if method in _WITH_GROUP_SIZE:
        return view.count("group_size", "q_group_size")
    schemes = _schemes(view) if method == "compressed-tensors" else []
    if len(schemes) != 1:
        return 0
    (scheme,) = schemes
    if scheme.word("strategy") == "group" and scheme.word("type") != "float":
        return scheme.count("group_size")
    return _block(scheme, "block_structure")


_PATTERN = re.compile(r"^re:|\.\*|[\\^$*]")
_HARMLESS = re.compile(
    r"(model\.)?(visual|vision|mtp)\b[\w.]*|([\w.]*\.)?"
    r"(lm_head|embed_tokens|gate|router|wg|e_score_correction_bias|shared_expert_gate|\w*norm"
    r"|(self_attn|linear_attn|indexer|shared_head)[\w.]*|eh_proj)\.?"
)
"""Modules that are no part of an MLP or expert."""


def _parts_in_groups(view: ConfigView) -> Iterator[str]:
    """Parts that the quantisation takes for sure: it names no other module to keep in 16 bits.

    How lists are matched differs by method: whole names, beginnings, pieces. So any name in them
    that may be of an MLP speaks against all, and so does a scheme for some modules only; the lack
    of a list, against shared experts. GPTQ's groups some kernel may take in pieces, but for those
    of experts.
    """
    names = (_PATTERN.sub("", str(name)).strip(".") for name in _kept(view))
    some = view.mapping("dynamic") or not all(map(_is_linear, _module_sets(view)))
    if some or not all(map(_HARMLESS.fullmatch, names)):
        return
    yield EXPERTS
    if not _method(view).startswith("gptq"):
        yield MLP
        if any(key in view for key in _KEPT_KEYS):
            yield SHARED


def _module_sets(view: ConfigView) -> Iterator[ConfigView]:
    """The sets of modules that compressed-tensors names."""
    groups = view.mapping("config_groups").values()
    return (ConfigView(group) for group in groups if isinstance(group, dict))


def _is_linear(group: ConfigView) -> bool:
    """Whether it takes all linear layers, as where it names no targets."""
    return "Linear" in (group.sequence("targets") or ["Linear"])


def _block(view: ConfigView, key: str) -> int:
    """The longer side of a block of numbers that share a scale; 0 where there are no blocks."""
    return max((side for side in view.sequence(key) if type(side) is int), default=0)


def _bits(view: ConfigView, method: str) -> float:
    if method == "fp8":
        return FP8_BITS
    if method in (*_WITH_GROUP_SIZE, "auto-round", "auto_round"):
        return _grouped(view.integer("bits", "w_bit"), view.count("group_size", "q_group_size"))
    if method == "compressed-tensors":
        return _compressed(view)
    if method == "mxfp4":
        return MXFP4_BITS
    if method == "bitsandbytes":
        return NF4_BITS if view.flag("load_in_4bit", default=view.flag("_load_in_4bit")) else 8
    if method in ("modelopt", "modelopt_fp4", "modelopt_mixed"):
        return _algorithm(view.word("quant_algo"))
    raise _only_files(method, "its sizes are not computed")


def _algorithm(name: str) -> float:
    """Bits of one of NVIDIA's algorithms."""
    if "NVFP4" in name:
        return NVFP4_BITS
    if name.startswith("MXFP4"):
        return MXFP4_BITS
    if name in ("FP8", "FP8_PER_CHANNEL_PER_TOKEN", "FP8_PB_WO", "INT8_SQ", "MXFP8"):
        return FP8_BITS
    if name.startswith(("W4A16", "INT4")):
        return _grouped(4, 128)
    if name == "MIXED_PRECISION":
        return PLAIN_BITS
    raise _only_files(name, "its sizes are not computed")


def _grouped(bits: int, group: int) -> float:
    """Codes, and for each group one scale and one zero point."""
    return bits + (SCALE_BITS + bits) / group if group else float(bits)


def _schemes(view: ConfigView) -> list[ConfigView]:
    """How compressed-tensors stores the weights of each set of modules."""
    return [group.part("weights") for group in _module_sets(view) if group.mapping("weights")]


def _compressed(view: ConfigView) -> float:
    schemes = _schemes(view)
    if not schemes:
        raise _only_files("compressed-tensors", "it has no schemes")
    # Of several, one is for the experts or the MLP, where most numbers are.
    return min(_scheme(scheme) for scheme in schemes)


def _scheme(view: ConfigView) -> float:
    bits, group = view.integer("num_bits"), view.count("group_size")
    strategy = view.word("strategy")
    if strategy == "tensor_group" or group == 16:
        return bits + 8 / group
    if group:
        scale = 8 if "scale_dtype" in view and "uint8" in view.word("scale_dtype") else SCALE_BITS
        return bits + scale / group
    return float(bits)


def _parts(view: ConfigView, bits: float, layers: int, *, beside: bool) -> dict[str, float]:
    """Parts that are stored otherwise: kept in 16 bits, or named with an algorithm of their own."""
    kept = [_spelled(str(name)) for name in _kept(view)]
    named = {
        _spelled(name): ConfigView(scheme).word("quant_algo")
        for name, scheme in view.mapping("quantized_layers").items()
    }
    found = {HEAD: _algorithm(named["lm_head"]) if "lm_head" in named else PLAIN_BITS}
    for part, usual in _MODULES.items():
        modules = ("experts.0.gate_proj",) if part == EXPERTS and beside else usual
        share = _share(kept, modules, layers)
        algorithms = [how for name, how in named.items() if _belongs(name, part)]
        if algorithms:
            found[part] = sum(map(_algorithm, algorithms)) / len(algorithms)
        elif share:
            found[part] = bits + share * (PLAIN_BITS - bits)
    return found


_WORDS = {
    ATTENTION: re.compile(r"_attn"),
    MLP: re.compile(r"mlp\.(gate|up|down)_proj"),
    EXPERTS: re.compile(r"(?<!shared_)experts"),
    SHARED: re.compile(r"shared_experts"),
}


def _belongs(name: str, part: str) -> bool:
    """Whether a module lies in `part`."""
    return _WORDS[part].search(name) is not None


def _spelled(name: str) -> str:
    """A module's name as most models spell it."""
    for pattern, usual in _SPELLINGS:
        name = pattern.sub(usual, name)
    return name


def _share(kept: list[str], modules: tuple[str, ...], layers: int) -> float:
    """The share of the layers of which one of `modules` is kept in 16 bits."""
    hits = sum(
        any(
            _covers(pattern, f"model.layers.{layer}.{name}") for pattern in kept for name in modules
        )
        for layer in range(layers)
    )
    return hits / layers


def _covers(pattern: str, name: str) -> bool:
    """Whether a config's pattern takes `name`: a regular expression, a glob, or a prefix."""
    if pattern.startswith("re:"):
        try:
            return re.match(pattern[3:], name) is not None
        except re.error:
            return False
    if "*" in pattern:
        return any(fnmatch.fnmatchcase(name, glob) for glob in (pattern, f"{pattern}.*"))
    return name == pattern or name.startswith(f"{pattern}.")


_KEPT_KEYS = ("ignore", "modules_to_not_convert", "exclude_modules", "ignored_layers")


def _kept(view: ConfigView) -> Iterator[Any]:
    for key in _KEPT_KEYS:
        yield from view.sequence(key)


def _only_files(name: str, why: str) -> ShapeError:
    return ShapeError(
        "UnknownWeightSize",
        f"The weights are quantised as {name or 'an unnamed method'} and {why}; plan from the"
        " folder that has the safetensors files, or state weightBytes in the shape.",
    )

"""Bytes of a model's weights, computed from its config."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from kvarn.planner.config_file import ConfigView
from kvarn.planner.families import Family
from kvarn.planner.feedforward import chosen_experts, experts
from kvarn.planner.parameters import EXPERTS, HEAD, Parameters, count_parameters
from kvarn.planner.quantization import MXFP4_MULTIPLE, WeightFormat
from kvarn.planner.towers import tower_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Bytes of a model's weights as vLLM holds them.

    Attributes:
        total_bytes: all of them.
        expert_bytes: those in routed experts.
        added_bytes: those that no file has: copies that latent attention keeps, and what fills
            experts up.
        active_parameters: numbers in the matrices that a token is multiplied with.
        quantization: vLLM's name of the method; empty for plain weights.
    """

    total_bytes: int
    expert_bytes: int
    added_bytes: int
    active_parameters: int
    quantization: str

    def measured(self, file_bytes: int) -> "Weights":
        """The same for weights whose files have `file_bytes`."""
        total_bytes = file_bytes + self.added_bytes
        expert_bytes = self.expert_bytes * total_bytes // self.total_bytes
        return replace(self, total_bytes=total_bytes, expert_bytes=expert_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the config says of the language model.

    Attributes:
        config: the whole config.
        text: the part that describes the language model.
        mixers: of each layer.
        tied: whether the output shares the embedding's weights.
        dtype_bytes: bytes of a number that is not quantised.
    """

    config: Mapping[str, Any]
    text: Mapping[str, Any]
    family: Family
    mixers: tuple[str, ...]
    tied: bool
    dtype_bytes: int


def computed_weights(model: Description, stored: WeightFormat) -> Weights:
    """The weights of `model`, its layers' matrices stored as `stored`."""
    view = ConfigView(model.text)
    found = count_parameters(view, model.family, model.mixers, tied=model.tied)
    towers = tower_parameters(model.config, view.integer("hidden_size", "n_embd"))
    plain = (found.others + towers) * model.dtype_bytes
    parts = {
        part: round(count * _bits(stored, part, model.dtype_bytes) / 8)
        for part, count in found.matrices.items()
    }
    routed = parts.get(EXPERTS, 0)
    filling = round(routed * _filling(found, stored)) - routed
    added = filling + found.absorbed * model.dtype_bytes
    return Weights(
        total_bytes=sum(parts.values()) + plain + added,
        expert_bytes=routed + filling,
        added_bytes=added,
        active_parameters=_active(found, view),
        quantization=stored.name,
    )


def _active(found: Parameters, view: ConfigView) -> int:
    """Numbers that a token is multiplied with: of the experts, those that it visits."""
    visited = found.matrices[EXPERTS]
    if count := experts(view):
        visited = visited * chosen_experts(view) // count
    tied_head = 0 if found.matrices[HEAD] else found.head
    return found.matrices.total() - found.matrices[EXPERTS] + visited + tied_head


def _bits(stored: WeightFormat, part: str, dtype_bytes: int) -> float:
    return stored.bits_of(part) if stored.name else 8 * dtype_bytes


def _filling(found: Parameters, stored: WeightFormat) -> float:
    """How much wider experts are in memory than in the files: MXFP4 kernels fill them up."""
    if stored.name != "mxfp4" or not found.expert_width:
        return 1.0
    return -(-found.expert_width // MXFP4_MULTIPLE) * MXFP4_MULTIPLE / found.expert_width

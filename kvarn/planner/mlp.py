"""MLPs and experts of one width, and how vLLM lets devices share them."""

from dataclasses import dataclass

from kvarn.planner.accelerators import FP8_CAPABILITY
from kvarn.planner.errors import ShapeError

REFINED = {"fp8": FP8_CAPABILITY, "awq": 0, "awq_marlin": 0, "gptq": 0, "gptq_marlin": 0}
"""Quantisations of routed experts whose groups vLLM splits, repeating the scales, and the compute
capability from where on (`refine_fp8_moe_block_shape`, `MoeWNA16Method.create_weights`)."""
FINEST = 32
"""Numbers that stay together when it does."""
GROUPS = {"fp8": 128, "awq": 128, "awq_marlin": 128}
"""Usual groups of a dense model."""

_WORDS = {
    "dense": "an MLP of width {:,} does not",
    "shared": "shared experts of width {:,} do not",
    "routed": "routed experts of width {:,} do not",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mlp:
    """MLPs that devices share by their width (0.32 and 0.33).

    `divide` and `FusedMoEConfig` assert that nothing is left. Groups stay whole by
    `validate_fp8_block_shape`, `validate_fp8_block_shape_moe`, `BaseAWQLinearMethod`,
    `verify_group_size_divides_partition` and `CompressedTensorsWNA16MoEMethod`.

    Attributes:
        kind: `dense`, `shared` for experts that every token visits, `routed` for the others.
        width: of one; of all shared experts of a layer together.
        group: numbers of a row that share a scale; 0 where any of them may be dealt to any device.

    Raises:
        ShapeError: the kind is unknown, or a number is out of its range.
    """

    kind: str
    width: int
    group: int = 0

    def __post_init__(self) -> None:
        if self.kind not in _WORDS:
            raise ShapeError(
                "InvalidShape", f"kind is {self.kind!r}; use one of {', '.join(_WORDS)}."
            )
        if self.width < 1:
            raise ShapeError(
                "InvalidShape",
                f"width of the {self.kind} MLPs is {self.width}; give a positive number.",
            )
        if self.group < 0:
            raise ShapeError("InvalidShape", f"group is {self.group}; give 0 or more.")

    def undivided(self, count: int, quantization: str, capability: float) -> str:
        """Why `count` devices of a compute capability cannot share it; empty where they can."""
        together = self._together(quantization, capability)
        if count == 1 or not self.width % (count * together):
            return ""
        groups = f" in groups of {together}" if together > 1 else ""
        return f"{_WORDS[self.kind].format(self.width)} divide among {count} devices{groups}"

    def _together(self, quantization: str, capability: float) -> int:
        """Numbers of a row that one device gets or lacks together."""
        since = REFINED.get(quantization) if self.kind == "routed" else None
        if since is None or 0 < capability < since:
            return self.group or 1
        return min(self.group, FINEST) or 1


def dense(width: int, quantization: str) -> Mlp:
    """The MLP of a dense model whose quantisation has its usual groups."""
    return Mlp(kind="dense", width=width, group=GROUPS.get(quantization, 0))

"""What changed over vLLM's versions in the memory account.

The constants are read off real start-ups by `python -m bench.planner_fit`.
"""

import re
from dataclasses import dataclass
from typing import Self, TypeVar

from kvarn.planner.errors import RequestError

DEFAULT_VERSION = "0.33"
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineVersion:
    """The account's version-dependent parts.

    Attributes:
        name: `major.minor` of vLLM.
        sampler_bytes: peak bytes per logit while the profile run samples: masks and probabilities
            before the second model runner (0.27), the logits and their gathered copy since.
        crowded_sampler_bytes: the same for more than 256 sequences, which sorting made dearer
            before 0.17.
        non_torch_bytes: what CUDA takes outside PyTorch's allocator on one GPU.
        parallel_bytes: the same where GPUs work together, NCCL's buffers included.
        fabric_bytes: the same on Hopper and Blackwell with NVLink, whose all-reduce has
            workspaces of its own.
        reserves_graphs: whether an estimate for CUDA graphs is subtracted (since 0.21).
        in_flight_steps: steps scheduled at once; 2 with asynchronous scheduling (since 0.14).
        utilization_percent: default of `--gpu-memory-utilization`.
    """

    name: str
    sampler_bytes: float
    crowded_sampler_bytes: float
    non_torch_bytes: int
    parallel_bytes: int
    fabric_bytes: int
    reserves_graphs: bool
    in_flight_steps: int
    utilization_percent: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """The version from `0.33`, `0.33.0` or `v0.33.0rc1`.

        Raises:
            RequestError: the text is no version.
        """
        match = re.match(r"v?(\d+)\.(\d+)", text)
        if match is None:
            raise RequestError("UnknownVersion", f"vLLM's version is {text!r}; write it as 0.33.0.")
        number = (int(match[1]), int(match[2]))
        return cls(
            name=f"{number[0]}.{number[1]}",
            sampler_bytes=_since(number, {(0, 0): 14.5, (0, 27): 4.0}),
            crowded_sampler_bytes=_since(number, {(0, 0): 38.0, (0, 17): 14.5, (0, 27): 4.0}),
            non_torch_bytes=_since(number, {(0, 0): 64, (0, 15): 128, (0, 18): 256}) * MIB,
            parallel_bytes=560 * MIB,
            fabric_bytes=_since(number, {(0, 0): 560, (0, 18): 2140}) * MIB,
            reserves_graphs=number >= (0, 21),
            in_flight_steps=2 if number >= (0, 14) else 1,
            utilization_percent=_since(number, {(0, 0): 90, (0, 20): 92}),
        )


T = TypeVar("T")


def _since(number: tuple[int, int], values: dict[tuple[int, int], T]) -> T:
    """The value of the latest version in `values`, ascending, that `number` has reached."""
    return [value for version, value in values.items() if number >= version][-1]

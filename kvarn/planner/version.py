"""What changed over vLLM's versions in the memory account."""

import re
from dataclasses import dataclass

from kvarn.planner.errors import PlanError

DEFAULT_VERSION = "0.33"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineVersion:
    """The account's version-dependent parts.

    Attributes:
        name: `major.minor` of vLLM.
        sampler_bytes: peak bytes per logit while the profile run samples.
        reserves_graphs: whether an estimate for CUDA graphs is subtracted (since 0.21).
        in_flight_steps: steps scheduled ahead of the one that runs, itself included.
        utilization_percent: default of `--gpu-memory-utilization`.
    """

    name: str
    sampler_bytes: float
    reserves_graphs: bool
    in_flight_steps: int
    utilization_percent: int

    @classmethod
    def parse(cls, text: str) -> "EngineVersion":
        """The version from `0.33`, `0.33.0` or `v0.33.0rc1`.

        Raises:
            PlanError: the text is no version, or older than what was studied.
        """
        match = re.match(r"v?(\d+)\.(\d+)", text)
        if match is None:
            raise PlanError("UnknownVersion", f"vLLM's version is {text!r}; write it as 0.33.0.")
        number = (int(match[1]), int(match[2]))
        return cls(
            name=f"{number[0]}.{number[1]}",
            sampler_bytes=14.5 if number >= (0, 17) else 38.0,
            reserves_graphs=number >= (0, 21),
            in_flight_steps=2 if number >= (0, 14) else 1,
            utilization_percent=92 if number >= (0, 20) else 90,
        )

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
        in_flight_steps: steps whose tokens a window keeps: 2 with asynchronous scheduling, which
            vLLM takes into account since 0.26.
        counts_by_length: whether the cache's tokens are reported by the longest request.
        state_blocks: blocks of a request in a recurrent layer: 2 where prefix caching keeps the
            state of a block's end beside the running one, the default since 0.21.
        packs_sparse_latents: whether sparse latent attention has an 8-bit cache by default, as it
            had until 0.15.
        profiles_encoders: whether the profile run shows encoders the largest image at its full
            size; start-ups since 0.18 show only what is left of it.
        keeps_chunks: whether layers that attend to chunks keep no more than one (since 0.13).
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
    counts_by_length: bool
    state_blocks: int
    keeps_chunks: bool
    profiles_encoders: bool
    packs_sparse_latents: bool
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
            sampler_bytes=_since(
                number, {(0, 0): 14.6, (0, 11): 38.0, (0, 17): 14.6, (0, 27): 4.0}
            ),
            crowded_sampler_bytes=_since(number, {(0, 0): 38.0, (0, 17): 14.6, (0, 27): 4.0}),
            non_torch_bytes=_since(number, {(0, 0): 64, (0, 15): 128, (0, 18): 256}) * MIB,
            parallel_bytes=560 * MIB,
            fabric_bytes=_since(number, {(0, 0): 560, (0, 18): 2140}) * MIB,
            reserves_graphs=number >= (0, 21),
            in_flight_steps=2 if number >= (0, 26) else 1,
            counts_by_length=number >= (0, 21),
            state_blocks=2 if number >= (0, 21) else 1,
            keeps_chunks=number >= (0, 13),
            profiles_encoders=number < (0, 18),
            packs_sparse_latents=number < (0, 16),
            utilization_percent=_since(number, {(0, 0): 90, (0, 20): 92}),
        )


T = TypeVar("T")


def _since(number: tuple[int, int], values: dict[tuple[int, int], T]) -> T:
    """The value of the latest version in `values`, ascending, that `number` has reached."""
    return [value for version, value in values.items() if number >= version][-1]


LATEST = EngineVersion.parse(DEFAULT_VERSION)

"""Which devices the kernels run on."""

from dataclasses import dataclass

OLDEST_GPU = (8, 0)
"""Compute capability of the first GPUs with asynchronous copies and products of bfloat16."""

TESTED_GPUS = ((8, 0), (9, 0), (10, 0))
"""Those that every kernel is compiled for in the tests."""

OLDEST_TRITON = (3, 6)

_OTHERWISE = "use --kv-cache-dtype auto"


@dataclass(frozen=True)
class Device:
    """What computes, and with what.

    Attributes:
        name: as vLLM's platforms are called: ``cpu``, ``cuda``, ``rocm``.
        capability: compute capability of a GPU by NVIDIA.
        triton: release that is installed.
    """

    name: str
    capability: tuple[int, int] | None = None
    triton: str | None = None

    def __str__(self) -> str:
        if self.capability is None:
            return self.name
        return f"compute capability {_dotted(self.capability)}, Triton {self.triton}"

    def why_unsupported(self) -> str | None:
        """Why no kernels run on it and what to change, or None when there are some."""
        if self.name == "cpu":
            return None
        if self.name != "cuda":
            return f"computes on CPUs and on GPUs by NVIDIA, not on {self.name}; {_OTHERWISE}"
        if self.capability and self.capability < OLDEST_GPU:
            return (
                f"needs a GPU of compute capability {_dotted(OLDEST_GPU)} or later, and this one "
                f"has {_dotted(self.capability)}; {_OTHERWISE}"
            )
        if self.triton is None or _release(self.triton) < OLDEST_TRITON:
            return (
                f"needs Triton {_dotted(OLDEST_TRITON)} or later, and {self.triton or 'none'} is "
                f"installed; install the one that vLLM's torch asks for, or {_OTHERWISE}"
            )
        return None

    def why_generic(self) -> str | None:
        """What is not known of a GPU that kernels run on, and the command that tells it."""
        if self.capability is None or self.capability in TESTED_GPUS:
            return None
        return (
            f"GPUs of compute capability {_dotted(self.capability)} are not among those tested "
            f"({', '.join(map(_dotted, TESTED_GPUS))}): the kernels run in their generic "
            "configuration, and `python -m bench.kernels --tune` compares it with others"
        )


def _dotted(release: tuple[int, ...]) -> str:
    return ".".join(map(str, release))


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])

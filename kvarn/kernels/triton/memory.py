"""Memory between the kernels of one call: one for each device, shared by all layers."""

from dataclasses import dataclass, field
from math import prod

import torch

from kvarn.format.layout import TileLayout
from kvarn.kernels.triton.arguments import compute_type
from kvarn.kernels.triton.rotate import padded_channels

PARTIAL_BYTES = 64 << 20
"""Bytes for results of parts; more segments than fit are attended in several launches."""


def scratch_bytes(layout: TileLayout, *, tokens: int, query_heads: int, model: torch.dtype) -> int:
    """Scratch memory that attention needs on a device.

    Args:
        layout: format and head dimension.
        tokens: most new tokens of a step.
        query_heads: of a layer on this rank.
        model: type of its activations.
    """
    element_bytes = compute_type(layout, model).itemsize
    return PARTIAL_BYTES + tokens * query_heads * padded_channels(layout) * element_bytes


@dataclass
class Scratch:
    """Buffers that only grow, and whose addresses stay valid for captured graphs.

    Attributes:
        device: where they lie.
    """

    device: torch.device
    _buffers: list[torch.Tensor] = field(default_factory=list)

    def reserve(self, size_bytes: int) -> torch.Tensor:
        """A buffer of at least so many bytes; its contents are anyone's."""
        if not self._buffers or len(self._buffers[-1]) < size_bytes:
            # A captured graph may still write to the smaller ones.
            self._buffers.append(torch.empty(size_bytes, dtype=torch.uint8, device=self.device))
        return self._buffers[-1]

    def partial(self) -> torch.Tensor:
        """Float32 numbers for results of parts, :data:`PARTIAL_BYTES` of them."""
        return self.reserve(PARTIAL_BYTES)[:PARTIAL_BYTES].view(torch.float32)

    def rotated(self, shape: tuple[int, int, int], dtype: torch.dtype) -> torch.Tensor:
        """Queries of a step, rotated."""
        size_bytes = prod(shape) * dtype.itemsize
        buffer = self.reserve(PARTIAL_BYTES + size_bytes)
        return buffer[PARTIAL_BYTES : PARTIAL_BYTES + size_bytes].view(dtype).view(shape)


_devices: dict[torch.device, Scratch] = {}


def scratch(device: torch.device) -> Scratch:
    """The device's scratch memory."""
    return _devices.setdefault(device, Scratch(device))

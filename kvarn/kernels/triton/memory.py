"""Memory between the kernels of one call: one for each device, shared by all layers."""

from dataclasses import dataclass, field
from math import prod

import torch

from kvarn.format import scratch as sizes
from kvarn.format.layout import TILE_TOKENS, TileLayout
from kvarn.kernels.triton.arguments import compute_type

PARTIAL_BYTES = sizes.PARTIAL_BYTES


def scratch_bytes(layout: TileLayout, query: torch.Tensor, *, group: int, dense: bool) -> int:
    """Scratch memory that attention needs on a device.

    Args:
        layout: format and head dimension.
        query: ``[tokens, Hq, D]`` of a step of most tokens.
        group: query heads of a KV head.
        dense: whether a library attends prompts, where it can.
    """
    tokens, query_heads, head_dim = query.shape
    numbers = compute_type(layout, query.dtype)
    return sizes.scratch_bytes(
        tokens=tokens,
        query_heads=query_heads,
        kv_heads=query_heads // group,
        head_dim=head_dim,
        element_bytes=numbers.itemsize,
        dense=dense and numbers == torch.float16,
    )


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

    def rotated(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Queries of a step, rotated; or results of a step, before there are such queries."""
        return self._view(PARTIAL_BYTES, shape, dtype)

    def dense(self, pages: int, query: torch.Tensor, heads: int) -> torch.Tensor:
        """Pages of keys and of values of the model's type, ``[2, pages, 128, H, D]``.

        They lie behind a step's rotated queries.
        """
        tokens, query_heads, head_dim = query.shape
        rotated = tokens * query_heads * sizes.padded_channels(head_dim) * query.itemsize
        shape = (2, pages, TILE_TOKENS, heads, head_dim)
        return self._view(PARTIAL_BYTES + rotated, shape, query.dtype)

    def _view(self, offset_bytes: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        end_bytes = offset_bytes + prod(shape) * dtype.itemsize
        return self.reserve(end_bytes)[offset_bytes:end_bytes].view(dtype).view(shape)


_devices: dict[torch.device, Scratch] = {}


def scratch(device: torch.device) -> Scratch:
    """The device's scratch memory."""
    return _devices.setdefault(device, Scratch(device))

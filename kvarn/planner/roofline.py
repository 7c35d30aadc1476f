"""Tokens per second: a roofline of a GPU, a model and a cache format.

A step of decoding reads all weights (of the experts, those that the batch visits) and computes one
token for each sequence. Either bounds its matrix products (Williams et al., "Roofline", CACM 2009),
and where both take about as long they hide each other only in part: the root of the sum of their
squares is what served steps take. Attention comes after them, bounded by reading the cache of every
sequence. A request also has its prompt computed once.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from kvarn.planner.accelerators import Accelerator
from kvarn.planner.formats import CacheFormat
from kvarn.planner.layer_kind import LayerKind
from kvarn.planner.shape import ModelShape
from kvarn.planner.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What steps of decoding reach of a data sheet.

    Those of the defaults are fitted to the steps of two models on an H200
    (`python -m bench.roofline_fit`), as are the shares and seconds of cache formats.

    Attributes:
        weight_share: of its bandwidth, what matrices are read with.
        layer_seconds: a layer's other kernels, and the launches in a CUDA graph.
        sequence_seconds: what each sequence adds: to schedule it, to sample and hand out its token.
    """

    weight_share: float = 0.79
    layer_seconds: float = 16e-6
    sequence_seconds: float = 4.4e-6


COMPUTE_SHARE = 0.65
"""Of the data sheet's operations, what matrix products and long prompts are computed with."""
FULL_SECONDS = 3.3e-6
"""Reading a tile for each warp of an H200, 132 x 8 of 13,824 bytes; others are taken for alike."""
REDUCE_SECONDS = 15e-6
"""One of a layer's two all-reduces of a few tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """One model on one accelerator with one cache format."""

    shape: ModelShape
    accelerator: Accelerator
    cache_format: CacheFormat
    rates: Rates = Rates()

    @property
    def is_known(self) -> bool:
        """Whether the accelerator's bandwidth and operations are."""
        return bool(self.accelerator.bandwidth_bytes and self.accelerator.flops)

    def tokens_per_second(self, load: Workload, requests: int) -> float:
        """Output tokens per second of `requests` at once, each replaced by another when it ends."""
        length = load.prompt_tokens + load.output_tokens // 2
        decode = load.output_tokens * self.step_seconds(requests, length)
        prefill = requests * self.prefill_seconds(load.prompt_tokens)
        return requests * load.output_tokens / (decode + prefill)

    def step_seconds(self, requests: int, length: int) -> float:
        """One step that adds a token to each of `requests` sequences of `length` tokens."""
        products = math.hypot(self.weight_seconds(requests), requests * self.token_seconds)
        attention = self.attention_seconds(requests, length)
        launch = self.launch_seconds - self._spared_seconds(requests, length)
        return launch + products + attention + requests * self.rates.sequence_seconds

    @property
    def launch_seconds(self) -> float:
        """What a step takes whatever its batch, unless that is very small."""
        layer = self.rates.layer_seconds
        if self.accelerator.count > 1:
            layer += 2 * REDUCE_SECONDS
        stored = sum(kind.layers for kind in self._stored_kinds)
        return self.shape.layers * layer + stored * self.cache_format.layer_seconds

    @property
    def _stored_kinds(self) -> tuple[LayerKind, ...]:
        """Layers whose cache has the format."""
        return self.shape.tiled_kinds if self.cache_format.tiled else self.shape.kinds

    def _spared_seconds(self, requests: int, length: int) -> float:
        """What a step does not take that reads so little that some warps have no tile."""
        kinds = self._stored_kinds
        share = self.cache_format.bandwidth_share(self.accelerator)
        reading = requests * self._read_bytes(kinds, length) / share
        full = reading / self.accelerator.bandwidth_bytes / FULL_SECONDS
        return self.cache_format.lead_seconds * max(0.0, sum(k.layers for k in kinds) - full)

    def weight_seconds(self, requests: int) -> float:
        """Reading the weights for a step of `requests` tokens."""
        bandwidth_bytes = self.rates.weight_share * self.accelerator.bandwidth_bytes
        return self._read_weights(requests) / bandwidth_bytes

    @property
    def token_seconds(self) -> float:
        """Computing one token, attention aside."""
        return self._weight_flops() / (COMPUTE_SHARE * self.accelerator.flops)

    def attention_seconds(self, requests: int, length: int) -> float:
        """Attention of a step to `requests` sequences of `length` tokens."""
        device = self.accelerator
        share = self.cache_format.bandwidth_share(device)
        states = self._state_bytes() / self.rates.weight_share
        size = self.sequence_bytes(length) / share + states
        flops = self._attention_flops(length) / COMPUTE_SHARE
        return requests * max(size / device.bandwidth_bytes, flops / device.flops)

    def prefill_seconds(self, tokens: int) -> float:
        """Computing a prompt of `tokens`."""
        operations = tokens * (self._weight_flops() + self._attention_flops(tokens // 2))
        return operations / (COMPUTE_SHARE * self.accelerator.flops)

    def sequence_bytes(self, length: int) -> int:
        """Bytes of a sequence's keys and values that one device reads in a step."""
        return self._read_bytes(self.shape.kinds, length)

    def _read_bytes(self, kinds: Iterable[LayerKind], length: int) -> int:
        """The same of some layers."""
        return sum(self._layer_bytes(kind, length) * kind.layers for kind in kinds)

    def _layer_bytes(self, kind: LayerKind, length: int) -> int:
        if kind.kind == "state":
            return 0
        if kind.kind == "index":
            return kind.token_bytes * length
        seen = min(length, kind.window_tokens) if kind.window_tokens else length
        heads = self.accelerator.kv_heads(kind.kv_heads)
        return heads * self.cache_format.read_bytes(self.shape, kind, seen)

    def _state_bytes(self) -> int:
        """Bytes of a sequence's recurrent states that one device reads and writes in a step."""
        states = sum(kind.state_bytes * kind.layers for kind in self.shape.kinds)
        return 2 * states // self.accelerator.count

    def _read_weights(self, requests: int) -> float:
        """Bytes of the weights on one device that a step of `requests` tokens reads."""
        shape = self.shape
        unread = 0.0
        if shape.experts:
            unread = (1 - shape.experts_per_token / shape.experts) ** requests
        return (shape.weight_bytes - shape.expert_bytes * unread) / self.accelerator.devices

    def _weight_flops(self) -> float:
        """Operations of one token on one device, attention aside."""
        shape = self.shape
        weights = shape.active_parameters or shape.weight_bytes // shape.dtype_bytes
        return 2 * weights / self.accelerator.devices

    def _attention_flops(self, length: int) -> float:
        """Operations of one token's attention to `length` others on one device."""
        width = self.shape.attention_heads * self.shape.head_dim
        operations = sum(
            4 * width * kind.layers * min(length, kind.window_tokens or length)
            for kind in self.shape.kinds
            if kind.kind in ("full", "window", "chunk", "latent")
        )
        return operations / self.accelerator.devices

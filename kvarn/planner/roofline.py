"""Tokens per second: a roofline of a GPU, a model and a cache format.

A step of decoding reads all weights (of the experts, those that the batch visits) and the cache of
every sequence, and computes one token for each. Whichever takes longer bounds it (Williams et al.,
"Roofline", CACM 2009). A request also has its prompt computed once.
"""

from dataclasses import dataclass

from kvarn.planner.accelerators import Accelerator
from kvarn.planner.cache import kv_heads_per_device
from kvarn.planner.formats import CacheFormat
from kvarn.planner.layer_kind import LayerKind
from kvarn.planner.shape import ModelShape
from kvarn.planner.workload import Workload

WEIGHT_SHARE = 0.85
"""Of the data sheet's bandwidth, what matrices are read with."""
COMPUTE_SHARE = 0.65
"""Of the data sheet's operations, what long prompts are computed with."""
LAYER_SECONDS = 15e-6
"""Launches of a layer's kernels, in a CUDA graph."""
REDUCE_SECONDS = 15e-6
"""One of a layer's two all-reduces of a few tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """One model on one accelerator with one cache format."""

    shape: ModelShape
    accelerator: Accelerator
    cache_format: CacheFormat

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
        device, shape = self.accelerator, self.shape
        weights = self._read_weights(requests) / WEIGHT_SHARE
        states = requests * self._state_bytes() / WEIGHT_SHARE
        cache = requests * self.sequence_bytes(length) / self.cache_format.bandwidth_share(device)
        memory = (weights + states + cache) / device.bandwidth_bytes
        compute = requests * self._token_flops(length) / (COMPUTE_SHARE * device.flops)
        reduces = 2 * REDUCE_SECONDS if device.count > 1 else 0.0
        return max(memory, compute) + shape.layers * (LAYER_SECONDS + reduces)

    def prefill_seconds(self, tokens: int) -> float:
        """Computing a prompt of `tokens`."""
        operations = tokens * self._token_flops(tokens // 2)
        return operations / (COMPUTE_SHARE * self.accelerator.flops)

    def sequence_bytes(self, length: int) -> int:
        """Bytes of a sequence's keys and values that one device reads in a step."""
        return sum(self._layer_bytes(kind, length) * kind.layers for kind in self.shape.kinds)

    def _layer_bytes(self, kind: LayerKind, length: int) -> int:
        if kind.kind == "state":
            return 0
        if kind.kind == "index":
            return kind.token_bytes * length
        seen = min(length, kind.window_tokens) if kind.window_tokens else length
        heads = kv_heads_per_device(kind.kv_heads, self.accelerator)
        return seen * heads * self.cache_format.kind_bytes(self.shape, kind)

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

    def _token_flops(self, length: int) -> float:
        """Operations of one token on one device, its attention to `length` others included."""
        shape = self.shape
        weights = shape.active_parameters or shape.weight_bytes // shape.dtype_bytes
        width = shape.attention_heads * shape.head_dim
        attention = sum(
            4 * width * kind.layers * (min(length, kind.window_tokens or length))
            for kind in shape.kinds
            if kind.kind in ("full", "window", "chunk", "latent")
        )
        return (2 * weights + attention) / self.accelerator.devices

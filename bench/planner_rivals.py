"""Formulas of other sizers on the same rows, written down from their sources.

All get the weights that our planner counts, so that only the formulas differ.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from bench.planner_records import Account, Start
from kvarn.planner.accelerators import GIB, Accelerator
from kvarn.planner.cache import CacheLayout, cache_layout, ceil_div
from kvarn.planner.memory import overhead

MIB = 1 << 20
ANY_GPU = Accelerator.find("H100")


@dataclass(frozen=True, slots=True)
class Sizer:
    """One formula.

    Attributes:
        cache_bytes: (account) -> memory left to the cache of one device.
        tokens: (start, bytes of the cache) -> tokens that it holds.
        holds: (start, bytes of the cache) -> whether the longest request fits; None where that
            follows from the tokens.
        asks_for_free: whether it wants the memory free that vLLM is allowed, as vLLM does.
    """

    cache_bytes: Callable[[Account], float]
    tokens: Callable[[Start, float], float]
    holds: Callable[[Start, float], bool] | None = None
    asks_for_free: bool = False

    def refuses(self, start: Start) -> bool:
        """Whether a request of maximal length does not fit, or another process is in the way."""
        account = start.foretold
        if account is None:
            return False
        free = start.record.get("device_free_at_start_gib")
        if self.asks_for_free and free and free * GIB < account.budget_bytes:
            return True
        cache_bytes = max(self.cache_bytes(account), 0.0)
        if self.holds:
            return not self.holds(start, cache_bytes)
        return self.tokens(start, cache_bytes) < start.needed_tokens


def kvarn() -> Sizer:
    """Our planner."""
    return Sizer(_planned_bytes, _planned_tokens, holds=_planned_holds, asks_for_free=True)


def _planned_bytes(account: Account) -> float:
    start = account.start
    lines = overhead(start.shape, account.device, start.batch, account.version)
    return account.budget_bytes - sum(line.size_bytes for line in lines)


def layout_of(start: Start) -> CacheLayout:
    """How vLLM lays the start's cache out."""
    device = start.device or replace(ANY_GPU, count=start.record["tp"] or 1)
    return cache_layout(start.shape, device, start.cache_format, start.version_or_latest)


def _planned_holds(start: Start, cache_bytes: float) -> bool:
    layout = layout_of(start)
    taken = layout.request_blocks(start.needed_tokens, in_flight_tokens=_in_flight(start))
    return taken < layout.blocks(int(cache_bytes))


def _in_flight(start: Start) -> int:
    return start.version_or_latest.in_flight_steps * start.batch.max_batched_tokens


def _planned_tokens(start: Start, cache_bytes: float) -> float:
    layout, tokens = layout_of(start), start.record["max_model_len"] or 16
    blocks = layout.request_blocks(tokens, in_flight_tokens=_in_flight(start))
    return layout.reported_tokens(layout.blocks(int(cache_bytes)), tokens, blocks)


def _token_bytes(start: Start, element_bytes: float) -> float:
    """Bytes of a token on one device if every layer kept it, of the model's usual widths."""
    shape, devices = start.shape, start.record["tp"] or 1
    latent = next((kind for kind in shape.kinds if kind.kind == "latent"), None)
    if latent:
        return latent.head_dim * shape.layers * element_bytes
    heads = max(1, ceil_div(shape.kv_heads, devices))
    return 2 * shape.layers * heads * shape.head_dim * element_bytes


def _kaito_bytes(account: Account) -> float:
    """`nodesestimator/estimator.go`: weights · 1.02, all · 1.05, 2.3 GiB kept, 0.84 of the GPU."""
    share = 0.82 if account.device.product.startswith("A10-") else 0.84
    weights = 1.02 * account.start.shape.weight_bytes / account.device.devices
    return share * account.device.memory_bytes - 1.05 * weights - 2.3 * GIB


def _kaito_tokens(start: Start, cache_bytes: float) -> float:
    """Two bytes a number, whatever the cache's format."""
    return cache_bytes / _token_bytes(start, 2)


_AICONFIGURATOR_ACTIVATION = {1: 10.0, 2: 6.0}
_AICONFIGURATOR_EXPERTS = {1: 22.0, 2: 13.0}
_AICONFIGURATOR_LLAMA = {1: 11.0, 2: 6.5}


def _aiconfigurator_bytes(account: Account) -> float:
    """`sdk/memory.py`: activations by a coefficient, 3.5 GiB and NCCL's buffers beside them."""
    start, device = account.start, account.device
    coefficients, rest = _AICONFIGURATOR_ACTIVATION, 5.0
    if "Llama" in start.shape.architecture:
        coefficients = _AICONFIGURATOR_LLAMA
    if start.shape.experts:
        coefficients, rest = _AICONFIGURATOR_EXPERTS, 10.0
    tokens = start.batch.max_batched_tokens
    factor = coefficients.get(device.count, rest)
    activations = max(2 * tokens * start.shape.hidden_size * factor, 70 * MIB)
    nccl = 360 * MIB if device.devices > 1 else 0
    weights = start.shape.weight_bytes / device.devices
    share = account.version.utilization_percent / 100
    return share * device.memory_bytes - weights - activations - nccl - 3.5 * GIB


def _aiconfigurator_tokens(start: Start, cache_bytes: float) -> float:
    """Windows count with their length, and every number has the cache's own width."""
    element_bytes = 1 if start.cache_format.name == "fp8" else start.shape.dtype_bytes
    longest = start.record["max_model_len"]
    window, sliding = start.shape.sliding_window_tokens, start.shape.sliding_layers
    token_bytes = _token_bytes(start, element_bytes)
    if longest and sliding and window < longest:
        token_bytes *= 1 - sliding / start.shape.layers * (1 - window / longest)
    return cache_bytes / token_bytes


def _gpustack_bytes(account: Account) -> float:
    """`vllm_resource_fit_selector.py`: weights · 1.2 and 2 GiB, of 0.9 of the GPU."""
    claim = 1.2 * account.start.shape.weight_bytes + 2 * GIB
    return 0.9 * account.device.memory_bytes - claim / account.device.devices


RIVALS: Mapping[str, Sizer] = {
    "kaito": Sizer(_kaito_bytes, _kaito_tokens),
    "aiconfigurator": Sizer(_aiconfigurator_bytes, _aiconfigurator_tokens),
    "gpustack": Sizer(_gpustack_bytes, _kaito_tokens),
}
"""GPUStack has no formula for tokens; it gets the plain one."""

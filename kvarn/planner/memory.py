"""The memory account of one device: what vLLM takes before the cache, line by line.

    available = utilisation · total − weights − activation peak − non-torch − CUDA graphs

Source: `Worker.determine_available_memory` in `vllm/v1/worker/gpu_worker.py`. The constants are
fitted by `bench/planner_fit.py`.
"""

from dataclasses import dataclass

from kvarn.planner.accelerators import GIB, Accelerator
from kvarn.planner.shape import ModelShape
from kvarn.planner.version import EngineVersion

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class AccountLine:
    """One line of the account.

    Attributes:
        name: camelCase, as in the resource's status.
        size_bytes: bytes of one device.
        note: where the figure comes from, a few words.
    """

    name: str
    size_bytes: int
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """The batch limits, which decide the activation peak."""

    max_sequences: int
    max_batched_tokens: int


def overhead(
    shape: ModelShape, accelerator: Accelerator, batch: Batch, version: EngineVersion
) -> tuple[AccountLine, ...]:
    """Everything on one device that is neither cache nor left over, in vLLM's order."""
    lines = [
        AccountLine("weights", weight_bytes(shape, accelerator), "model, in its share per device"),
        AccountLine(
            "activations",
            activation_bytes(shape, accelerator, batch, version),
            f"{batch.max_batched_tokens} tokens a step, {batch.max_sequences} sequences sampled",
        ),
    ]
    if accelerator.is_cpu:
        return (*lines, AccountLine("runtime", CPU_RUNTIME_BYTES, "Python, PyTorch and vLLM"))
    return (
        *lines,
        AccountLine("nonTorch", non_torch_bytes(accelerator), "CUDA context, NCCL buffers"),
        AccountLine("cudaGraphs", graph_bytes(shape, version), "vLLM's estimate"),
    )


def weight_bytes(shape: ModelShape, accelerator: Accelerator) -> int:
    """Weights of one device."""
    return -(-shape.weight_bytes // accelerator.count)


def activation_bytes(
    shape: ModelShape, accelerator: Accelerator, batch: Batch, version: EngineVersion
) -> int:
    """Peak of PyTorch's allocations in vLLM's profile run, beyond the weights.

    The run computes one step of `max_batched_tokens`, then samples for `max_sequences` at once;
    the larger of the two counts, over the hidden states that both need.
    """
    tokens, width = batch.max_batched_tokens, shape.dtype_bytes
    hidden = tokens * shape.hidden_size * width
    per_token = 3 * shape.intermediate_size // accelerator.count + 3 * shape.hidden_size
    forward = tokens * per_token * width
    sampled = min(batch.max_sequences, tokens)
    sampler = round(sampled * shape.vocab_size * version.sampler_bytes)
    return hidden + max(forward, sampler) + ALLOCATOR_BYTES


def non_torch_bytes(accelerator: Accelerator) -> int:
    """What CUDA and NCCL take outside PyTorch's allocator."""
    return round((2.1 if accelerator.count > 1 else 0.25) * GIB)


def graph_bytes(shape: ModelShape, version: EngineVersion) -> int:
    """What vLLM reserves for CUDA graphs before it captures them."""
    if not version.reserves_graphs:
        return 0
    return GRAPH_BYTES + shape.layers * GRAPH_LAYER_BYTES


ALLOCATOR_BYTES = 40 * MIB
"""Fixed part of the activation peak: workspaces and the allocator's rounding."""

GRAPH_BYTES = 500 * MIB
GRAPH_LAYER_BYTES = 10 * MIB

CPU_RUNTIME_BYTES = 1024 * MIB
"""Resident size of a serving process without weights and cache, with room for compiled code."""

"""The memory account of one device: what vLLM takes before the cache, line by line.

    available = utilisation · total − weights − activation peak − non-torch − CUDA graphs

Source: `Worker.determine_available_memory` in `vllm/v1/worker/gpu_worker.py`. The constants are
fitted by `bench/planner_fit.py`.
"""

from dataclasses import dataclass

from kvarn.format.scratch import DENSE_CHANNELS, scratch_bytes
from kvarn.planner.accelerators import Accelerator
from kvarn.planner.shape import ModelShape
from kvarn.planner.version import MIB, EngineVersion


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
    """The batch limits, which decide the activation peak, and whether graphs are captured."""

    max_sequences: int
    max_batched_tokens: int
    graphs: bool = True


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
        AccountLine("nonTorch", non_torch_bytes(accelerator, version), "CUDA context, NCCL"),
        AccountLine("cudaGraphs", graph_bytes(shape, batch, version), "vLLM's estimate"),
    )


def scratch(shape: ModelShape, accelerator: Accelerator, batch: Batch) -> AccountLine:
    """What the kernels that attend tiles keep between them on a GPU.

    Prompts take the most of it where a library attends them; where none does, there is some to
    spare.
    """
    size_bytes = scratch_bytes(
        tokens=batch.max_batched_tokens,
        query_heads=shape.attention_heads // accelerator.count,
        kv_heads=accelerator.kv_heads(shape.kv_heads),
        head_dim=shape.head_dim,
        element_bytes=shape.dtype_bytes,
        dense=shape.dtype_bytes == 2 and shape.head_dim <= DENSE_CHANNELS,
    )
    return AccountLine("scratch", size_bytes, "attention of tiles, for all layers")


def weight_bytes(shape: ModelShape, accelerator: Accelerator) -> int:
    """Weights of one device."""
    return -(-shape.weight_bytes // accelerator.devices)


def activation_bytes(
    shape: ModelShape, accelerator: Accelerator, batch: Batch, version: EngineVersion
) -> int:
    """Peak of PyTorch's allocations in vLLM's profile run, beyond the weights.

    The run computes one step of `max_batched_tokens`: at its peak a layer holds the MLP's gate
    and up projections, their product, the output of each expert that a token visits, and four
    copies of the hidden states. Then it samples for `max_sequences` at once while the hidden states
    are still there. The larger part counts. What an encoder made lies beside both.
    """
    tokens, width = batch.max_batched_tokens, shape.dtype_bytes
    hidden = tokens * shape.hidden_size * width
    mlp = tokens * 3 * shape.intermediate_size * width // accelerator.count
    layer = mlp + (4 + shape.experts_per_token) * hidden
    sampled = 0 if shape.pooling else min(batch.max_sequences, tokens)
    crowded = sampled > CROWDED_SEQUENCES
    each = version.crowded_sampler_bytes if crowded else version.sampler_bytes
    sampler = round(sampled * shape.vocab_size * each)
    encoded = hidden if shape.multimodal else 0
    encoder = shape.encoder_bytes if version.profiles_encoders else 0
    return max(layer, hidden + sampler) + encoded + encoder + ALLOCATOR_BYTES


def non_torch_bytes(accelerator: Accelerator, version: EngineVersion) -> int:
    """What CUDA, NCCL and, where the host shares the memory, the host take outside PyTorch."""
    if accelerator.product.startswith(UNIFIED):
        return version.non_torch_bytes + UNIFIED_BYTES
    if accelerator.devices == 1:
        return version.non_torch_bytes
    return version.fabric_bytes if has_fabric(accelerator) else version.parallel_bytes


def has_fabric(accelerator: Accelerator) -> bool:
    """Whether the devices all-reduce over NVLink with workspaces of its own."""
    return accelerator.bandwidth_bytes >= FABRIC_BANDWIDTH_BYTES


def graph_bytes(shape: ModelShape, batch: Batch, version: EngineVersion) -> int:
    """What vLLM reserves for CUDA graphs before it captures them.

    What they keep grows with the number of layers, and with the batches captured together.
    """
    if not (version.reserves_graphs and batch.graphs):
        return 0
    captured = sum(captured_batches(batch.max_sequences))
    return shape.layers * (GRAPH_LAYER_BYTES + captured * GRAPH_LAYER_TOKEN_BYTES)


def captured_batches(max_sequences: int) -> list[int]:
    """The batches that vLLM captures: up to twice `max_sequences`, 512 at most.

    Source: `VllmConfig._set_cudagraph_sizes`.
    """
    largest = min(2 * max_sequences, GRAPH_TOKENS)
    sizes = (1, 2, 4, *range(8, 256, 8), *range(256, GRAPH_TOKENS + 1, 16))
    return [size for size in sizes if size <= largest]


ALLOCATOR_BYTES = 32 * MIB
"""Fixed part of the activation peak: workspaces and the allocator's rounding."""

CROWDED_SEQUENCES = 256

FABRIC_BANDWIDTH_BYTES = 3 * 10**12
"""Memory bandwidth that only Hopper and Blackwell with NVLink have."""

UNIFIED = ("GB10",)
"""Devices whose memory is the host's."""
UNIFIED_BYTES = 2200 * MIB
"""What the host's memory grows by while a model loads."""

GRAPH_TOKENS = 512
GRAPH_LAYER_BYTES = 1 * MIB
GRAPH_LAYER_TOKEN_BYTES = 2300

CPU_RUNTIME_BYTES = 1024 * MIB
"""Resident size of a serving process without weights and cache, with room for compiled code."""

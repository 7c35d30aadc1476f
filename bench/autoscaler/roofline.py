"""How long one step of the engine takes: a roofline of a GPU and a model.

In the linear layers, a step reads all weights and computes every token of the batch; whichever
takes longer bounds them (Williams et al., "Roofline", CACM 2009). Attention comes on top: computing
the pairs of tokens of the prompts, and reading the cache of every sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.autoscaler.requests import Request
from kvarn.planner import FORMATS, Accelerator, AcceleratorError, Limits, ModelShape, Workload, plan

DENSE_FLOPS = {
    "H200-141GB": 989e12,
    "H100-80GB-HBM3": 989e12,
    "A100-SXM4-80GB": 312e12,
    "L40S-48GB": 362e12,
    "L4-24GB": 121e12,
}
"""bfloat16 without sparsity, per second, from NVIDIA's data sheets."""
KVARN = "kvarn_k4v2_g128"
CANDIDATES = ("A100-SXM4-80GB", "H200-141GB")
"""GPUs to choose from, the smallest first."""
LEAST_REQUESTS = 64
"""Ordinary requests that a server's cache must hold for its GPU to be chosen."""
COMPUTE_SHARE = 0.55
"""Of the data sheet's compute, what long prefills reach."""
BANDWIDTH_SHARE = 0.8
"""Of the data sheet's bandwidth, what decoding reaches."""
STEP_SECONDS = 0.003
"""Scheduler, sampler and kernel launches of one step."""

QWEN3_32B = ModelShape(
    architecture="Qwen3ForCausalLM",
    layers=64,
    attention_heads=64,
    kv_heads=8,
    head_dim=128,
    hidden_size=5120,
    intermediate_size=25600,
    vocab_size=151936,
    weight_bytes=65524246528,
    dtype="bfloat16",
    max_position_tokens=131072,
)
"""Qwen3-32B with its YaRN context; the numbers of its `config.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """What a step costs, in seconds.

    Attributes:
        fixed: whatever the batch.
        weights: to read the weights.
        token: to compute one token without attention.
        context: to read one cached token.
        pair: to compute attention of one query on one key, all layers together.
        sequence: for each sequence that decodes, and
        prompt: for each prompt in a step; on a GPU, kernels take all at once, on a CPU each costs
            a call.
        beside: to read one cached token in a step that computes prompts as well, beyond `context`.
    """

    fixed: float
    weights: float
    token: float
    context: float
    pair: float
    sequence: float = 0.0
    prompt: float = 0.0
    beside: float = 0.0

    def prefill_seconds(self, tokens: int, *, cached: int = 0) -> float:
        """Computing a prompt of `tokens` alone, of which the first `cached` are in the cache."""
        new = tokens - cached
        return new * (self.token + self.pair * (cached + new / 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """One server: what its steps cost and what it holds.

    Attributes:
        cache_tokens: what its KV cache holds.
        block_tokens: of a block, in which the cache is handed out.
        gpus: that it takes.
    """

    name: str
    step: StepTime
    cache_tokens: int
    max_model_tokens: int
    max_sequences: int
    max_batched_tokens: int
    block_tokens: int = 128
    gpus: int = 1


def server(gpu: str, *, shape: ModelShape = QWEN3_32B, cache_format: str) -> Server:
    """The server that the planner would set up for chat on `gpu`.

    Raises:
        PlannerError: it does not fit, or nobody knows the GPU.
    """
    accelerator = Accelerator.find(gpu)
    if accelerator.product not in DENSE_FLOPS:
        known = ", ".join(DENSE_FLOPS)
        raise AcceleratorError("UnknownCompute", f"What {gpu} computes is not known: give {known}.")
    flops = COMPUTE_SHARE * DENSE_FLOPS[accelerator.product]
    bandwidth = BANDWIDTH_SHARE * accelerator.bandwidth_bytes
    made = plan(shape, accelerator, workload=Workload(), limits=Limits(), cache_format=cache_format)
    parameters = shape.weight_bytes / 2
    width = shape.attention_heads * shape.head_dim
    cache = FORMATS[made.format]
    token_bytes = cache.token_bytes(shape) * shape.kv_heads * shape.layers
    return Server(
        name=f"Qwen3-32B, {made.format}, {accelerator.product}",
        step=StepTime(
            fixed=STEP_SECONDS,
            weights=shape.weight_bytes / bandwidth,
            token=2 * parameters / flops,
            context=token_bytes / bandwidth,
            pair=4 * shape.layers * width / flops,
        ),
        cache_tokens=made.cache_tokens,
        max_model_tokens=made.max_model_tokens,
        max_sequences=made.max_sequences,
        max_batched_tokens=made.max_batched_tokens,
        block_tokens=cache.block_tokens(on_cpu=False),
    )


def choose(gpu: str, *, cache_format: str, requests: Sequence[Request]) -> Server:
    """The server on `gpu`, or on the smallest whose cache holds enough of `requests` if `auto`."""
    if gpu != "auto":
        return server(gpu, cache_format=cache_format)
    mean = sum(r.prompt_tokens + r.output_tokens for r in requests) / len(requests)
    made = [server(each, cache_format=cache_format) for each in CANDIDATES]
    return next((s for s in made if s.cache_tokens >= LEAST_REQUESTS * mean), made[-1])

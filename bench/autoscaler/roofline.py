"""How long one step of the engine takes, by the planner's roofline, and what a server holds.

In the linear layers, a step reads all weights and computes every token of the batch. Attention
comes on top: computing the pairs of tokens of the prompts, and reading the cache of every sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.autoscaler.requests import Request
from kvarn.planner import FORMATS, Accelerator, AcceleratorError, Limits, ModelShape, Workload, plan
from kvarn.planner.cache import cache_layout
from kvarn.planner.roofline import Roofline

KVARN = "kvarn_k4v2_g128"
CANDIDATES = ("A100-SXM4-80GB", "H200-141GB")
"""GPUs to choose from, the smallest first."""
LEAST_REQUESTS = 64
"""Ordinary requests that a server's cache must hold for its GPU to be chosen."""

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
        token: to compute one token without attention, in a step that computes prompts, and
        decode: in one that does not.
        context: to read one cached token.
        pair: to compute attention of one query on one key, all layers together.
        sequence: for each sequence that decodes: to schedule it and to read its open tile; on a CPU
            a call.
        prompt: for each prompt in a step, on a CPU; on a GPU, kernels take all at once.
        beside: to read one cached token in a step that computes prompts as well, beyond `context`.
    """

    fixed: float
    weights: float
    token: float
    context: float
    pair: float
    decode: float = 0.0
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
        tail_tokens: of the cache that each sequence takes beside its own, for its open tile.
        plans_ahead: whether a step is planned while the one before it begins.
        gpus: that it takes.
    """

    name: str
    step: StepTime
    cache_tokens: int
    max_model_tokens: int
    max_sequences: int
    max_batched_tokens: int
    block_tokens: int = 128
    tail_tokens: int = 0
    plans_ahead: bool = False
    gpus: int = 1


def server(gpu: str, *, shape: ModelShape = QWEN3_32B, cache_format: str) -> Server:
    """The server that the planner would set up for chat on `gpu`.

    Raises:
        PlannerError: it does not fit, or nobody knows the GPU.
    """
    accelerator = Accelerator.find(gpu)
    made = plan(shape, accelerator, workload=Workload(), limits=Limits(), cache_format=cache_format)
    cache = FORMATS[made.format]
    speed = Roofline(shape=shape, accelerator=accelerator, cache_format=cache)
    if not speed.is_known:
        raise AcceleratorError("UnknownSpeed", f"How fast {gpu} computes and reads is not known.")
    block_tokens = cache.block_tokens(on_cpu=False)
    tails = cache_layout(shape, accelerator, cache).request_blocks(0, in_flight_tokens=0)
    return Server(
        name=f"Qwen3-32B, {made.format}, {accelerator.product}",
        step=step_time(speed),
        cache_tokens=made.cache_tokens,
        max_model_tokens=made.max_model_tokens,
        max_sequences=made.max_sequences,
        max_batched_tokens=made.max_batched_tokens,
        block_tokens=block_tokens,
        tail_tokens=tails * block_tokens,
        plans_ahead=True,
    )


def step_time(speed: Roofline) -> StepTime:
    """The terms of `speed`, of a model whose layers are alike: those of attention are a line.

    What the smallest steps of tiles spare is left out: a server that scales is busy.
    """
    length = 1 << 10
    short, long = (speed.attention_seconds(1, each) for each in (length, 2 * length))
    context = (long - short) / length
    token = speed.token_seconds
    return StepTime(
        fixed=speed.launch_seconds,
        weights=speed.weight_seconds(1),
        token=token,
        context=context,
        pair=speed.prefill_seconds(2) / 2 - token,
        decode=token,
        sequence=speed.rates.sequence_seconds + short - length * context,
    )


def choose(gpu: str, *, cache_format: str, requests: Sequence[Request]) -> Server:
    """The server on `gpu`, or on the smallest whose cache holds enough of `requests` if `auto`."""
    if gpu != "auto":
        return server(gpu, cache_format=cache_format)
    mean = sum(r.prompt_tokens + r.output_tokens for r in requests) / len(requests)
    made = [server(each, cache_format=cache_format) for each in CANDIDATES]
    return next((s for s in made if s.cache_tokens >= LEAST_REQUESTS * mean), made[-1])

"""The plan: what to serve with, why, and what it will be like."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from kvarn.planner.accelerators import Accelerator
from kvarn.planner.camel import from_camel, to_camel
from kvarn.planner.memory import AccountLine


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision of the planner.

    Attributes:
        name: what was decided, as in the resource.
        value: what it is now.
        reason: one line.
    """

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Alternative:
    """What another format would give with the same limits.

    Attributes:
        format: its name.
        cache_tokens: tokens that its cache holds; 0 when it cannot serve.
        requests: requests of the workload that it holds at once.
        tokens_per_second: output of the requests that run at once, by the roofline; 0 where it is
            not known.
        note: why it cannot serve or was not chosen; empty for the chosen one.
    """

    format: str
    cache_tokens: int
    requests: int
    tokens_per_second: int
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Limits with which the model starts, and the account that says so.

    Attributes:
        format: cache format, e.g. `kvarn_k4v2_g128`.
        kv_cache_dtype: vLLM's name of it.
        reason: why this format, one sentence.
        account: lines of one device, from `total` down to `left`; see `Plan.line`.
        cache_tokens: what vLLM will report as `kv_cache_size_tokens`.
        cache_blocks: what it will report as `num_gpu_blocks`.
        request_blocks: blocks that a request of `max_model_tokens` takes.
        max_model_tokens: `--max-model-len`.
        max_sequences: `--max-num-seqs`.
        max_batched_tokens: `--max-num-batched-tokens`.
        utilization_percent: `--gpu-memory-utilization`, in hundredths; 0 on the CPU.
        workload_requests: requests of the workload that the cache holds at once.
        tokens_per_second: output of those that run at once, by the roofline; 0 if it is not known.
        choices: every decision with its reason.
        alternatives: all formats side by side.
        engine_version: vLLM's `major.minor` that the account is for.
    """

    accelerator: Accelerator
    format: str
    kv_cache_dtype: str
    reason: str
    account: tuple[AccountLine, ...]
    cache_tokens: int
    cache_blocks: int
    request_blocks: int
    max_model_tokens: int
    max_sequences: int
    max_batched_tokens: int
    utilization_percent: int
    workload_requests: int
    tokens_per_second: int
    choices: tuple[Choice, ...]
    alternatives: tuple[Alternative, ...]
    engine_version: str

    def line(self, name: str) -> int:
        """Bytes of the account's line `name` (`total`, `unused`, `weights`, …, `cache`, `left`)."""
        return next(line.size_bytes for line in self.account if line.name == name)

    @property
    def cache_bytes(self) -> int:
        """Memory of the cache on one device."""
        return self.line("cache")

    @property
    def max_concurrency(self) -> float:
        """What vLLM will report as `kv_cache_max_concurrency`."""
        return self.cache_blocks / self.request_blocks

    def vllm_flags(self) -> tuple[str, ...]:
        """Arguments for `vllm serve` and the launcher, model and addresses aside."""
        if self.accelerator.is_cpu:
            memory = ("--kv-cache-memory-bytes", str(self.cache_bytes))
        else:
            memory = ("--gpu-memory-utilization", f"{self.utilization_percent / 100:.2f}")
        parallel, stages = self.accelerator.count, self.accelerator.stages
        return (
            *("--kv-cache-dtype", self.kv_cache_dtype),
            *("--max-model-len", str(self.max_model_tokens)),
            *("--max-num-seqs", str(self.max_sequences)),
            *("--max-num-batched-tokens", str(self.max_batched_tokens)),
            *memory,
            *(("--tensor-parallel-size", str(parallel)) if parallel > 1 else ()),
            *(("--pipeline-parallel-size", str(stages)) if stages > 1 else ()),
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON, integers and words only; `flags` stands beside the fields."""
        return {**to_camel(self), "flags": list(self.vllm_flags())}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The reverse of `to_dict`."""
        return from_camel(cls, data)

"""Causes of failed starts, read from what vLLM 0.32 and torch print."""

import json

import pytest

from kvarn.engine.diagnosis import Failure, diagnose

GIB = 2**30

CONTEXT = (
    "(EngineCore pid=9) ERROR 11-24 15:21:15 [core.py:1510] ValueError: To serve at least one "
    "request with the model's max seq len (131072), (16.0 GiB KV cache is needed, which is larger "
    "than the available KV cache memory (9.5 GiB). {estimate}Try increasing "
    "`gpu_memory_utilization`"
)
ESTIMATE = "Based on the available memory, the estimated maximum model length is 77824. "
NOTHING_LEFT = (
    "INFO Available KV cache memory: -3.25 GiB\n"
    "ERROR ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_…"
)
CUDA = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB. GPU 0 has a total "
    "capacity of 79.18 GiB of which 512.50 MiB is free. Process 1 has 78.67 GiB memory in use."
)
BUSY = (
    "ValueError: Free memory on device cuda:0 (3.2/79.18 GiB) on startup is less than desired GPU "
    "memory utilization (0.92, 72.85 GiB). Decrease GPU memory utilization or reduce GPU memory"
)
BUSY_HOST = (
    "ValueError: Available memory on node 0 (10.0/16.0 GiB) on kv cache allocation is less than "
    "requested memory for kv (12.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE"
)
HOST = "RuntimeError: [enforce fail] DefaultCPUAllocator: you tried to allocate 123456 bytes."
REFUSED = "kvarn.engine.errors.UnsupportedError: kvarn_k4v2_g128 needs blocks of 128 tokens; …"
OPTION = "launcher: error: argument --kv-cache-dtype: invalid choice: 'kvarn_k9' (choose from …)"


@pytest.mark.parametrize(
    ("output", "reason", "numbers"),
    [
        (
            CONTEXT.format(estimate=ESTIMATE),
            "ContextTooLong",
            {
                "asked_tokens": 131072,
                "needed_bytes": 16 * GIB,
                "available_bytes": 19 * GIB // 2,
                "feasible_tokens": 77824,
            },
        ),
        (
            CONTEXT.format(estimate=""),
            "ContextTooLong",
            {
                "asked_tokens": 131072,
                "needed_bytes": 16 * GIB,
                "available_bytes": 19 * GIB // 2,
            },
        ),
        (NOTHING_LEFT, "InsufficientMemory", {"available_bytes": -13 * GIB // 4}),
        (
            CUDA,
            "OutOfMemory",
            {
                "requested_bytes": 896 << 20,
                "total_bytes": round(79.18 * GIB),
                "free_bytes": 1025 << 19,
            },
        ),
        (
            BUSY,
            "InsufficientMemory",
            {
                "free_bytes": round(3.2 * GIB),
                "total_bytes": round(79.18 * GIB),
                "wanted_bytes": round(72.85 * GIB),
            },
        ),
        (
            BUSY_HOST,
            "InsufficientMemory",
            {"free_bytes": 10 * GIB, "total_bytes": 16 * GIB, "wanted_bytes": 12 * GIB},
        ),
        (HOST, "OutOfMemory", {"requested_bytes": 123456}),
        (REFUSED, "Unsupported", {}),
        (OPTION, "Unsupported", {}),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_known_causes(output: str, reason: str, numbers: dict[str, int]) -> None:
    failure = diagnose(f"noise\n{output}\nRuntimeError: Engine core initialization failed.", 1)
    assert failure.reason == reason
    assert failure.numbers == numbers


def test_a_killed_server_ran_out_of_memory() -> None:
    assert diagnose("Loading weights", -9).reason == "OutOfMemory"


def test_another_error_is_quoted_and_not_its_aftermath() -> None:
    output = "OSError: no such model\nRuntimeError: Engine core initialization failed. See above."
    assert diagnose(output, 1) == Failure("StartFailed", "OSError: no such model")


def test_silence_leaves_the_status() -> None:
    assert diagnose("", 7).message == "vLLM ended with status 7."


def test_a_message_fits_the_kubelet() -> None:
    said = Failure("StartFailed", "é" * 9000, {"free_bytes": 1}).to_json()
    assert len(said.encode()) <= 4096
    assert json.loads(said)["numbers"] == {"free_bytes": 1}

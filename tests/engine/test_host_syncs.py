"""On a GPU the host never waits for a layer: seen in a profiler's trace of a whole engine."""

import gc
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tests.support.tiny_model import write_tiny_model

pytestmark = pytest.mark.gpu

LAYERS = 4
PROMPTS = ([7] * 300, [7] * 127, [7])
TOKENS = 200
"""Of each answer: tiles become complete on the way."""


def waits(model: Path, cache_format: str) -> Counter[str]:
    """Calls of the CUDA runtime that wait for the device, by name, while prompts are answered."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    from kvarn.engine.plugin import register

    register()  # whether or not the package is installed
    llm = LLM(
        str(model),
        kv_cache_dtype=cache_format,
        dtype="bfloat16",
        max_model_len=1024,
        max_num_seqs=8,
        gpu_memory_utilization=0.2,
        kv_cache_memory_bytes=1 << 30,
        enable_prefix_caching=False,
    )
    wanted = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True)
    asked = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    llm.generate(asked, wanted, use_tqdm=False)
    torch.accelerator.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        llm.generate(asked, wanted, use_tqdm=False)
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    names = [event.name for event in trace.events() if event.device_type == DeviceType.CPU]
    assert names.count("cudaGraphLaunch") >= TOKENS - 1, "steps were not replayed as CUDA graphs"
    return Counter(name for name in names if "Synchronize" in name)


def test_the_host_waits_no_more_often_than_with_a_bfloat16_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    model = write_tiny_model(tmp_path, num_hidden_layers=LAYERS)
    plain, ours = (waits(model, each) for each in ("auto", "kvarn_k4v2_g128"))
    print(f"bfloat16: {dict(plain)}, kvarn_k4v2_g128: {dict(ours)}")
    assert ours.total() <= plain.total() + LAYERS  # one in each layer's step would be hundreds

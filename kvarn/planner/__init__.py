"""Model shape, accelerator and workload in; a plan, or the reason why there is none, out.

    shape = read_shape("Qwen3-8B/config.json")  # or ModelShape.from_dict(spec.model.shape)
    gpu = Accelerator.find("NVIDIA-H100-80GB-HBM3", count=1)  # or Accelerator.cpu(memory_bytes=…)
    gpu = labelled(node["metadata"]["labels"], count=1)  # of a GPU that is not in our table too
    work = Workload(prompt_tokens=2048, output_tokens=512, concurrency=64)
    limits = Limits(max_model_tokens=32768)  # None, the default, leaves a limit to the planner
    made = plan(shape, gpu, workload=work, limits=limits, cache_format="auto")
    made.format, made.reason, made.cache_tokens  # cache_tokens: vLLM's kv_cache_size_tokens
    made.account  # lines: name, size_bytes, note
    made.vllm_flags()  # ("--kv-cache-dtype", …), model and addresses aside
    made.to_dict()  # JSON; Plan.from_dict reads it

All errors are `PlannerError`s with `reason` and `message`: one sentence, numbers and remedy.
"""

from kvarn.planner.accelerators import Accelerator, known_gpus
from kvarn.planner.correction import Correction
from kvarn.planner.errors import (
    AcceleratorError,
    PlanError,
    PlannerError,
    RequestError,
    ShapeError,
)
from kvarn.planner.formats import FORMATS
from kvarn.planner.hf_config import read_shape
from kvarn.planner.memory import AccountLine
from kvarn.planner.nodes import labelled
from kvarn.planner.result import Alternative, Choice, Plan
from kvarn.planner.shape import ModelShape
from kvarn.planner.solve import AUTO, plan
from kvarn.planner.version import DEFAULT_VERSION
from kvarn.planner.workload import Limits, Workload

__all__ = [
    "AUTO",
    "DEFAULT_VERSION",
    "FORMATS",
    "Accelerator",
    "AcceleratorError",
    "AccountLine",
    "Alternative",
    "Choice",
    "Correction",
    "Limits",
    "ModelShape",
    "Plan",
    "PlanError",
    "PlannerError",
    "RequestError",
    "ShapeError",
    "Workload",
    "known_gpus",
    "labelled",
    "plan",
    "read_shape",
]

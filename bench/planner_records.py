"""Start-ups of vLLM as the planner takes them: shape, device, batch, version.

A line of the records' file holds one start-up: settings, GPU, what vLLM printed. Null is unstated.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from hack.errors import Refusal
from kvarn.planner import FORMATS, Accelerator, ModelShape, PlannerError
from kvarn.planner.accelerators import GIB
from kvarn.planner.config_file import load_config
from kvarn.planner.formats import CacheFormat
from kvarn.planner.hf_config import shape_from_config
from kvarn.planner.memory import Batch
from kvarn.planner.version import LATEST, EngineVersion

Record = Mapping[str, Any]
STATED = (
    *("id", "source_url", "vllm_version", "model", "gpu", "tp", "pp", "weight_dtype"),
    *("kv_cache_dtype", "gpu_memory_utilization", "max_model_len", "max_num_seqs"),
    *("max_num_batched_tokens", "enforce_eager", "activation_gib", "nontorch_gib"),
    *("available_kv_gib", "kv_tokens", "error"),
)
"""What every record says, if only that it is not stated."""

STORED: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"nvfp4", {"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}),
    (r"w8a8|int8", {"quant_method": "modelopt", "quant_algo": "INT8_SQ"}),
    (r"fp8", {"quant_method": "fp8"}),
    (r"awq|gptq|int4|w4a16", {"quant_method": "gptq", "bits": 4, "group_size": 128}),
)
"""What a published variant's name or a record's `weight_dtype` says of the weights."""
PLAIN = ("bfloat16", "float16")
"""What a record's `weight_dtype` says of weights that are not quantised."""
ENDING = re.compile(
    r"-(instruct|chat|it|hf|thinking|base|\d{4}|coder|math|\d[.]\d+-preview"
    r"|bf16|fp8|nvfp4|awq|gptq|int4|int8|dynamic|static|pertensor|qat|fp8-dynamic"
    r"|quantized[.]w\da\d+|w\da\d+)(?=-|$)"
)
"""Endings that change neither a model's layers nor their widths."""
ALIKE = {
    "codellama-7b": "llama-2-7b",
    "deepseek-r1-distill-llama-70b": "llama-3.1-70b",
    "deepseek-r1-distill-llama-8b": "llama-3.1-8b",
    "deepseek-r1-distill-qwen-14b": "qwen2.5-14b",
    "deepseek-r1-distill-qwen-32b": "qwen2.5-32b",
    "deepseek-r1-distill-qwen-7b": "qwen2.5-7b",
    "deepseek-v3": "deepseek-r1",
    "deepseek-v3.1": "deepseek-r1",
    "kimi-k2": "kimi-k2.5",
    "llama-3-8b": "llama-3.1-8b",
    "llama-3-70b": "llama-3.1-70b",
    "llama-3.3-70b": "llama-3.1-70b",
    "mistral-7b-instruct-v0.3": "mistral-7b-instruct-v0.2",
    "phi-3-mini-4k": "phi-3-mini-128k",
    "phi-3.5-mini": "phi-3-mini-128k",
    "qwen2-72b": "qwen2.5-72b",
    "qwq-32b": "qwen2.5-32b",
    "qwen3.5-27b": "qwen3.6-27b",
    "qwen3.6-35b-a3b": "qwen3.5-35b-a3b",
    "llama-3_3-nemotron-super-49b-v1_5": "llama-3_3-nemotron-super-49b-v1",
}
"""Models that were published with the layers of another."""


@dataclass(frozen=True, slots=True)
class Config:
    """A model's config with the name that it was published under."""

    name: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start-up, understood.

    Attributes:
        utilization: vLLM's share of the memory; None where it is not stated.
        device: None where the GPU is not stated, or unknown.
        version: None where it is not stated.
        batch: the limits, as stated or as vLLM's defaults for this device.
    """

    record: Record
    shape: ModelShape
    cache_format: CacheFormat
    device: Accelerator | None
    utilization: float | None
    version: EngineVersion | None
    batch: Batch

    @property
    def says_tokens(self) -> bool:
        """Whether it states what tokens follow from: devices, version, and length if layers differ.

        Where a draft model runs beside it, neither its layers nor the tokens it drafts are stated.
        """
        record, alike = self.record, len(self.shape.kinds) == 1
        stated = record["tp"] and self.version and not record.get("speculative")
        return bool(stated and (alike or record["max_model_len"]))

    @property
    def needed_tokens(self) -> int:
        """The longest request, which vLLM wants room for before it starts."""
        longest: int | None = self.record["max_model_len"]
        return longest or self.shape.max_position_tokens

    @property
    def version_or_latest(self) -> EngineVersion:
        """The version, the latest where it is not stated."""
        return self.version or LATEST

    @property
    def foretold(self) -> "Account | None":
        """What a forecast of a failure needs; the default utilisation where none is stated."""
        if self.device is None or self.version is None or not devices(self.record):
            return None
        share = self.utilization or self.version.utilization_percent / 100
        return Account(self, self.device, share, self.version)

    @property
    def account(self) -> "Account | None":
        """What a forecast needs; None where the record does not state all of it."""
        stated = self.record["tp"] and not self.record.get("speculative")
        if (
            self.record["error"]
            or not stated
            or self.device is None
            or self.utilization is None
            or self.version is None
        ):
            return None
        return Account(self, self.device, self.utilization, self.version)


@dataclass(frozen=True, slots=True)
class Account:
    """A start-up whose settings are all known."""

    start: Start
    device: Accelerator
    utilization: float
    version: EngineVersion

    @property
    def budget_bytes(self) -> float:
        """What vLLM may take of one device."""
        return self.utilization * self.device.memory_bytes


def load(file: Path) -> list[Record]:
    """The records of a file.

    Raises:
        Refusal: a line holds none.
    """
    try:
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise Refusal(f"{file} is not JSON line by line ({error}); give start-ups.") from error
    for number, record in enumerate(records, 1):
        said = record if isinstance(record, dict) else {}
        if missing := [name for name in STATED if name not in said]:
            raise Refusal(f"{file}, line {number}, is no start-up: it lacks {', '.join(missing)}.")
    return records


def load_configs(folder: Path) -> dict[str, list[Config]]:
    """The configs `<org>__<model>.json` in `folder`, by `model_key`.

    Raises:
        ShapeError: one cannot be read.
    """
    found: dict[str, list[Config]] = {}
    for path in sorted(folder.glob("*__*.json")):
        name = path.stem.split("__")[1]
        found.setdefault(model_key(name), []).append(Config(name, load_config(path)))
    return found


def model_key(model: str) -> str:
    """The model's name without what does not change its layers."""
    name = model.rsplit("/", 1)[-1].lower().removeprefix("meta-").partition(" ")[0]
    previous = ""
    while name != previous:
        previous, name = name, ENDING.sub("", name)
    return ALIKE.get(name, name)


def read_start(record: Record, configs: Mapping[str, list[Config]]) -> Start | None:
    """The start-up; None where the model's config is not at hand or is not planned for."""
    shape = _shape(record, configs)
    if shape is None:
        return None
    text = record["vllm_version"]
    version = EngineVersion.parse(text) if text else None
    device = _device(record)
    return Start(
        record=record,
        shape=shape,
        cache_format=FORMATS["fp8" if "fp8" in (record["kv_cache_dtype"] or "") else "bf16"],
        device=device,
        utilization=_utilization(record, version),
        version=_as_started(version, record),
        batch=_batch(record, device),
    )


def _shape(record: Record, configs: Mapping[str, list[Config]]) -> ModelShape | None:
    """The model's shape: its own config's, or that of a model with the same layers."""
    found = configs.get(model_key(record["model"]), [])
    published = record["model"].rsplit("/", 1)[-1].lower()
    own = [config for config in found if config.name.lower() == published]
    plain = [config for config in found if not _is_quantised(config)]
    best = next(iter(own or plain or found), None)
    if best is None:
        return None
    if own and _is_quantised(best):
        return _read(best.name, json.dumps(best.content))
    content = dict(best.content)
    words = f"{record['weight_dtype']} {record['model']}".lower()
    stored = next((how for pattern, how in STORED if re.search(pattern, words)), None)
    if stored:
        content["quantization_config"] = stored
    elif str(record["weight_dtype"]) in PLAIN:
        content.pop("quantization_config", None)
    return _read(published, json.dumps(content))


def _is_quantised(config: Config) -> bool:
    return "quantization_config" in config.content or bool(
        re.search(r"fp8|nvfp4", config.name.lower())
    )


@cache
def _read(name: str, content: str) -> ModelShape | None:
    try:
        return shape_from_config(json.loads(content), name=name)
    except PlannerError:
        return None


def _device(record: Record) -> Accelerator | None:
    total = record.get("device_total_gib")
    memory_bytes = round(total * GIB) if total else None
    if record["gpu"] is None and memory_bytes is None:
        return None
    try:
        found = Accelerator.find(record["gpu"] or "a GPU", memory_bytes=memory_bytes)
    except PlannerError:
        return None
    return replace(found, count=devices(record) or 1, stages=record["pp"] or 1)


def devices(record: Record) -> int:
    """GPUs that share a layer; 0 where that is not stated."""
    return record["tp"] or (record.get("gpu_count") or 0) // (record["pp"] or 1)


def _utilization(record: Record, version: EngineVersion | None) -> float | None:
    stated: float | None = record["gpu_memory_utilization"]
    if (
        stated is None
        and version
        and "default" in (record.get("gpu_memory_utilization_basis") or "")
    ):
        return version.utilization_percent / 100
    return stated


def _batch(record: Record, device: Accelerator | None) -> Batch:
    large = device is not None and device.is_large
    return Batch(
        max_sequences=record["max_num_seqs"] or (1024 if large else 256),
        max_batched_tokens=record["max_num_batched_tokens"] or (8192 if large else 2048),
        graphs=not record["enforce_eager"],
    )


def _as_started(version: EngineVersion | None, record: Record) -> EngineVersion | None:
    """The version, with what the command line changed in it."""
    if version and record.get("prefix_caching") in ("True", "False"):
        return replace(version, state_blocks=2 if record["prefix_caching"] == "True" else 1)
    return version

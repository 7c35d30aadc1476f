"""What is measured, as points of a record: JSON to keep, CSV to look through, lines to read."""

import csv
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import triton

from bench.kernels.shape import Shape, Stage

AGAINST: Mapping[str, str] = MappingProxyType(
    {
        "vs_bf16": "bf16",
        "vs_fp8": "fp8",
        "vs_int4": "int4_per_token_head",
        "vs_turboquant": "turboquant_4bit_nc",
    }
)
"""The rival that each ratio of a point is against."""


@dataclass(frozen=True)
class Point:
    """A format in a step: ours or a rival's.

    Attributes:
        stage: decode: attention alone; prefill: a layer's attention and store; store: tiles and
            tails alone.
        shape: of the step.
        format: of the cache.
        us: microseconds; None if it does not run.
        moved_bytes: bytes that must be read and written.
        copy_share: of the bandwidth of an elementwise copy.
        vs_bf16: how many times as long FlashAttention 3 takes on bfloat16; None without it.
        vs_fp8: likewise on fp8.
        vs_int4: vLLM's `int4_per_token_head`, likewise.
        vs_turboquant: vLLM's `turboquant_4bit_nc`, likewise.
        ns_per_token: nanoseconds for each new token.
        sequences: of the step.
        longest: tokens of the longest sequence.
        kv_heads: of the layer.
        group: query heads of each.
        head_dim: channels.
        whole_us: microseconds of attention and store together.
        store_share: of that, the store's part.
        teraflops: each second, of prompts.
        kernels: that attended a decode step, triton or cuda.
        parts: that histories were cut into by Triton's.
        note: why it does not run.
    """

    stage: Stage
    shape: str
    format: str
    us: float | None
    moved_bytes: int
    copy_share: float | None
    vs_bf16: float | None
    vs_fp8: float | None
    vs_int4: float | None
    vs_turboquant: float | None
    ns_per_token: float | None
    sequences: int
    longest: int
    kv_heads: int
    group: int
    head_dim: int
    whole_us: float | None = None
    store_share: float | None = None
    teraflops: float | None = None
    kernels: str | None = None
    parts: int | None = None
    note: str | None = None


def point(
    shape: Shape,
    name: str,
    us: float | None,
    *,
    moved_bytes: int,
    copy: float,
    times: Mapping[str, float | None],
    **more: Any,
) -> Point:
    """A point with all that follows from its time.

    Args:
        shape: of the step.
        name: of the format.
        us: microseconds.
        moved_bytes: in them.
        copy: bytes a second of an elementwise copy.
        times: microseconds of the rivals, by name.
        more: of the point.
    """

    def against(rival: str) -> float | None:
        time = times.get(rival)
        return time / us if time and us else None

    flops = shape.flops if shape.stage == "prefill" and "stage" not in more else None
    return Point(
        **{
            "stage": shape.stage,
            "shape": shape.name,
            "format": name,
            "us": us,
            "moved_bytes": moved_bytes,
            "copy_share": moved_bytes / us * 1e6 / copy if us else None,
            **{field: against(rival) for field, rival in AGAINST.items()},
            "ns_per_token": us * 1e3 / shape.tokens if us else None,
            "sequences": len(shape.lengths),
            "longest": shape.longest,
            "kv_heads": shape.kv_heads,
            "group": shape.group,
            "head_dim": shape.head_dim,
            "teraflops": flops / us / 1e6 if flops and us else None,
            **more,
        }
    )


def environment(copy: float, kernels: str) -> dict[str, Any]:
    """What points were measured with.

    Args:
        copy: bytes a second of an elementwise copy.
        kernels: as they were asked for.
    """
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "vllm": _version("vllm"),
        "python": platform.python_version(),
        "kernels": kernels,
        "copy_bytes_per_second": round(copy),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def save(path: Path, surroundings: Mapping[str, Any], points: Sequence[Point]) -> None:
    """Write a record."""
    rounded = [{name: _rounded(value) for name, value in asdict(each).items()} for each in points]
    path.write_text(json.dumps({**surroundings, "points": rounded}, indent=1) + "\n")


def _rounded(value: Any) -> Any:
    """Four digits are more than a clock gives."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def load(path: Path) -> tuple[dict[str, Any], list[Point]]:
    """The surroundings and the points of a record.

    Raises:
        ValueError: the file is none.
    """
    try:
        record = json.loads(path.read_text())
        points = [Point(**each) for each in record.pop("points")]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no record of `python -m bench.kernels --json {path}`: {error!r}"
        ) from error
    return record, points


def save_csv(path: Path, points: Sequence[Point]) -> None:
    """Write points as a table."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Point)])
        writer.writeheader()
        for each in points:
            row = {name: _rounded(value) for name, value in asdict(each).items()}
            writer.writerow({name: "" if value is None else value for name, value in row.items()})


def line(each: Point) -> str:
    """A point for people."""
    if each.us is None:
        return f"{each.shape:>34}  {each.format:19} – {each.note}"
    parts = [f"{each.shape:>34}  {each.format:19} {each.us:9.1f} µs"]
    if each.copy_share and each.stage != "prefill":
        parts.append(f"{each.copy_share:4.0%} of copy")
    if each.teraflops:
        parts.append(f"{each.teraflops:4.0f} Tflop/s")
    if each.kernels:
        parts.append(each.kernels + (f" in {each.parts} parts" if each.parts else ""))
    if each.store_share:
        parts.append(f"{each.store_share:.1%} of {each.whole_us:.1f} µs with attention")
    ratios = {name.removeprefix("vs_"): getattr(each, name) for name in AGAINST}
    parts += [f"{ratio:.2f}× {name}" for name, ratio in ratios.items() if ratio]
    return ", ".join(parts)

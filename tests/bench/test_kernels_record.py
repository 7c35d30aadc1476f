"""The record of `python -m bench.kernels`: what is kept, and what is drawn from it."""

import csv
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from click.testing import CliRunner, Result

from bench.kernels import record
from bench.kernels.__main__ import QUANTISED, main
from bench.kernels.record import AGAINST, Point, point
from bench.kernels.shape import Shape

COPY = 4e12
TIMES = {"bf16": 400.0, "fp8": 300.0, "int4_per_token_head": 1600.0, "turboquant_4bit_nc": None}


def of(shape: Shape, name: str, us: float | None, **more: object) -> Point:
    return point(shape, name, us, moved_bytes=400_000_000, copy=COPY, times=TIMES, **more)


def some_points() -> list[Point]:
    decode, prompt = Shape.decode(64, 8192), Shape.prompt(2048, after=8192)
    return [
        *(of(decode, name, us, note="a reason") for name, us in TIMES.items()),
        *(of(decode, name, 125.0, whole_us=127.0, parts=2) for name in QUANTISED),
        of(prompt, "kvarn_k4v2_g128", 500.0, whole_us=500.0),
        of(decode, "kvarn_k4v2_g128", 2.0, stage="store", whole_us=127.0, store_share=0.016),
    ]


def redraw(tmp_path: Path, *options: str) -> Result:
    path = tmp_path / "record.json"
    record.save(path, {"device": "NVIDIA H200"}, some_points())
    return CliRunner().invoke(main, ["--plot-from", str(path), *options])


def test_a_point_is_held_against_each_rival() -> None:
    ours = of(Shape.decode(64, 8192), "kvarn_k4v2_g128", 125.0)
    assert (ours.vs_bf16, ours.vs_fp8, ours.vs_int4) == (3.2, 2.4, 12.8)
    assert ours.vs_turboquant is None
    assert ours.copy_share == pytest.approx(0.8)


def test_a_rival_that_does_not_run_is_null_and_says_why() -> None:
    absent = of(Shape.decode(64, 8192), "turboquant_4bit_nc", None, note="no library")
    assert (absent.us, absent.copy_share, absent.vs_bf16) == (None, None, None)
    assert "no library" in record.line(absent)


def test_the_store_has_no_floating_point_speed() -> None:
    prompt = Shape.prompt(2048)
    assert of(prompt, "kvarn_k4v2_g128", 500.0).teraflops
    assert not of(prompt, "kvarn_k4v2_g128", 5.0, stage="store").teraflops


def test_every_point_has_what_the_record_promises(tmp_path: Path) -> None:
    redraw(tmp_path)
    kept = json.loads((tmp_path / "record.json").read_text())
    names = {"shape", "format", "us", "copy_share", "moved_bytes", *AGAINST}
    assert all(names <= each.keys() for each in kept["points"])
    surroundings, points = record.load(tmp_path / "record.json")
    assert surroundings == {"device": "NVIDIA H200"}
    assert [(each.shape, each.format) for each in points] == [
        (each.shape, each.format) for each in some_points()
    ]


def test_a_picture_has_a_mark_for_each_format_in_each_step(tmp_path: Path) -> None:
    assert redraw(tmp_path, "--svg", str(tmp_path / "a.svg")).exit_code == 0
    picture = ElementTree.fromstring((tmp_path / "a.svg").read_text())
    circles = picture.findall(".//{*}circle")
    # The legend, speed-up and copy share of decoding, a prompt, a store.
    assert len(circles) == 3 * len(QUANTISED) + 2
    assert "NVIDIA H200" in "".join(picture.itertext())


def test_a_picture_of_one_stage_has_no_empty_panels(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    record.save(path, {"device": "GPU"}, some_points()[-1:])
    CliRunner().invoke(main, ["--plot-from", str(path), "--svg", str(tmp_path / "a.svg")])
    assert "Decoding" not in (tmp_path / "a.svg").read_text()


def test_a_table_has_a_row_for_each_point(tmp_path: Path) -> None:
    assert redraw(tmp_path, "--csv", str(tmp_path / "a.csv")).exit_code == 0
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(some_points())
    assert rows[0]["format"] == "bf16"
    assert rows[3]["us"] == ""


def test_another_file_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"points": [{"x": 1}]}')
    result = CliRunner().invoke(main, ["--plot-from", str(path)])
    assert result.exit_code == 1
    assert "is no record of `python -m bench.kernels" in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_without_a_gpu_nothing_is_measured() -> None:
    result = CliRunner().invoke(main, ["--quick"])
    assert result.exit_code == 1
    assert "no CUDA GPU" in result.output

"""The command line: what it prints and how it exits."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kvarn.cli import _percent, main
from kvarn.planner import Accelerator, ModelShape, Plan, plan, read_shape
from tests.planner.builders import config_path

ROOT = Path(__file__).parent.parent.parent
GOLDEN = Path(__file__).parent / "golden"
QWEN = str(config_path("Qwen3-8B"))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("fits", "plan tests/data/model-configs/Qwen__Qwen3-8B.json --gpu H200"),
        (
            "explained",
            (
                "plan tests/data/model-configs/Qwen__Qwen2.5-32B.json --gpu H100 --tp 2 --explain"
                " --prompt-tokens 30000 --output-tokens 1000 --concurrency 128"
            ),
        ),
        (
            "refused",
            "plan tests/data/model-configs/openai__gpt-oss-120b.json --gpu H200",
        ),
        ("cpu", "plan tests/data/model-configs/Qwen__Qwen2.5-0.5B.json --gpu cpu --concurrency 4"),
        ("gpus", "gpus"),
        ("hybrid", "plan tests/data/model-configs/Qwen__Qwen3.5-35B-A3B.json --gpu H200"),
    ],
)
def test_output_is_as_it_was(name: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden files are this command's output: `kvarn plan … > tests/planner/golden/NAME.txt`.

    The numbers, and what is said of tiles, change with the tile's layout and are tested apart.
    """
    monkeypatch.chdir(ROOT)

    result = run(*command.split())

    assert result.exit_code == 0
    assert _words(result.stdout) == _words((GOLDEN / f"{name}.txt").read_text())


def _words(text: str) -> list[list[str]]:
    lines = [re.sub(r"[\d,.]+", "0", line).split() for line in text.splitlines()]
    return [words for words in lines if not any("kvarn_" in word for word in words)]


def test_json_holds_the_plan_and_the_command() -> None:
    report = json.loads(run("plan", QWEN, "--gpu", "H200", "--json").stdout)

    made = plan(read_shape(QWEN), Accelerator.find("H200"))
    assert Plan.from_dict(report["plan"]) == made
    assert ModelShape.from_dict(report["shape"]) == read_shape(QWEN)
    assert report["command"] == ["vllm", "serve", "MODEL", *made.vllm_flags()]


def test_limits_by_hand_stand_in_the_plan() -> None:
    options = ("--max-model-len", "4096", "--max-num-seqs", "7", "--max-num-batched-tokens", "1024")
    result = run("plan", QWEN, "--gpu", "L4", "--gpu-memory-utilization", "0.9", *options, "--json")

    made = Plan.from_dict(json.loads(result.stdout)["plan"])
    assert (made.max_model_tokens, made.max_sequences, made.max_batched_tokens) == (4096, 7, 1024)
    assert made.utilization_percent == 90


@pytest.mark.parametrize("percent", range(10, 100))
def test_each_whole_percent_arrives_as_it_is(percent: int) -> None:
    assert _percent(percent / 100) == percent


def test_what_does_not_fit_exits_with_1_and_a_remedy() -> None:
    result = run("plan", str(config_path("Qwen2.5-32B")), "--gpu", "L4")

    assert result.exit_code == 1
    assert "or use 4 of L4-24GB" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere", "--gpu", "H100"), "nowhere is no folder, no file and no model's name"),
        ((QWEN, "--gpu", "H1000"), "or give its --memory (`kvarn gpus` lists"),
        ((QWEN, "--gpu", "nope"), "No GPU is known as nope; give its --memory"),
        ((QWEN, "--gpu", "H100", "--tp", "3"), "do not divide among 3"),
        ((QWEN, "--gpu", "H100", "--tp", "0"), "'--tp': 0 is not in the range"),
        ((QWEN, "--gpu", "H100", "--tp", str(10**12)), "use 1, 2, 4, 8, 16 or 32 of them"),
        ((QWEN, "--gpu", "cpu", "--tp", "2"), "A CPU is one device, not 2"),
        ((QWEN, "--gpu", "H100", "--pp", "0"), "'--pp': 0 is not in the range"),
        ((QWEN, "--gpu", "H100", "--pp", "37"), "36 layers do not make 37 stages"),
        ((QWEN, "--gpu", "A100-SXM4-40GB-MIG-9x"), "9x is no MIG profile of A100-SXM4-40GB"),
        ((QWEN, "--gpu", "H100", "--concurrency", "0"), "'--concurrency': 0 is not in"),
        ((QWEN, "--gpu", "H100", "--prompt-tokens", "0"), "'--prompt-tokens': 0 is not in"),
        ((QWEN, "--gpu", "H100", "--prompt-tokens", "50000"), "(--prompt-tokens + --output-to"),
        ((QWEN, "--gpu", "H100", "--max-model-len", "0"), "'--max-model-len': 0 is not in"),
        ((QWEN, "--gpu", "H100", "--max-model-len", "50000"), "--max-model-len is 50,000, and"),
        ((QWEN, "--gpu", "H100", "--max-num-seqs", "0"), "'--max-num-seqs': 0 is not in"),
        (
            (QWEN, "--gpu", "H100", "--max-num-seqs", "9", "--max-num-batched-tokens", "8"),
            "--max-num-batched-tokens is 8 and --max-num-seqs 9; raise",
        ),
        ((QWEN, "--gpu", "H100", "--memory", "-1"), "memory is -"),
        ((QWEN, "--gpu", "H100", "--memory", "0"), "memory is 0 bytes"),
        ((QWEN, "--gpu", "cpu", "--memory", "0"), "memory is 0 bytes"),
        ((QWEN, "--gpu", "H200-MIG-1g.18gb", "--memory", "0"), "memory is 0 bytes"),
        ((QWEN, "--gpu", "H100", "--memory", "nan"), "--memory is nan; give GiB"),
        ((QWEN, "--gpu", "H100", "--memory", "inf"), "--memory is inf; give GiB"),
        ((QWEN, "--gpu", "H100", "--memory", "1e300"), "--memory is 1e+300; give GiB"),
        ((QWEN, "--gpu", "H100", "--gpu-memory-utilization", "nan"), "utilization is nan; give"),
        ((QWEN, "--gpu", "H100", "--gpu-memory-utilization", "inf"), "utilization is inf; give"),
        ((QWEN, "--gpu", "H100", "--gpu-memory-utilization", "92"), "utilization is 92; give"),
        ((QWEN, "--gpu", "H100", "--gpu-memory-utilization", "0.001"), "is 0.001; give whole"),
        ((QWEN, "--gpu", "H100", "--gpu-memory-utilization", "0.925"), "is 0.925; give whole"),
        ((QWEN, "--gpu", "H100", "--gpu-memory-utilization", "0.999"), "is 0.999; give whole"),
        ((QWEN, "--gpu", "H100", "--gpu-memory-utilization", "1"), "hundredths from 0.1 to 0.99"),
        (
            (QWEN, "--gpu", "cpu", "--memory", "64", "--gpu-memory-utilization", "0.5"),
            "--gpu-memory-utilization is of a GPU; a CPU server takes what its container has",
        ),
        ((QWEN, "--gpu", "H100", "--resource", "nvidia.com/gpu"), "--resource is of a --node"),
        ((QWEN, "--gpu", "H100", "--vllm-version", "x"), "version is 'x'"),
        ((QWEN, "--gpu", "H100", "--format", "int1"), "'int1' is not one of"),
        ((QWEN,), "Give either --gpu or --node"),
        ((QWEN, "--node", __file__), "holds no JSON"),
        ((__file__, "--gpu", "H100"), "holds no JSON"),
    ],
)
def test_bad_input_exits_with_2_and_says_why(arguments: tuple[str, ...], words: str) -> None:
    result = run("plan", *arguments)

    assert result.exit_code == 2
    assert words in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-num-batched-tokens", "10000000"), "leave --max-num-batched-tokens to"),
        (("--max-num-seqs", "10000000"), "leave --max-num-seqs to the planner"),
        (("--gpu-memory-utilization", "0.1"), "leave --gpu-memory-utilization to the planner or"),
        (
            ("--max-num-seqs", "10000000", "--max-num-batched-tokens", "10000000"),
            "leave --max-num-seqs and --max-num-batched-tokens to the planner",
        ),
    ],
)
def test_an_option_that_is_too_much_is_named_as_the_remedy(
    options: tuple[str, ...], words: str
) -> None:
    result = run("plan", QWEN, "--gpu", "H100", *options)

    assert result.exit_code == 1
    assert words in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--gpu", "H1000"), "UnknownAccelerator"),
        (("--gpu", "H100", "--memory", "inf"), "InvalidAccelerator"),
        (("--gpu", "H100", "--gpu-memory-utilization", "nan"), "InvalidLimits"),
    ],
)
def test_errors_are_json_where_json_is_asked_for(arguments: tuple[str, ...], reason: str) -> None:
    result = run("plan", QWEN, *arguments, "--json")

    assert json.loads(result.stdout)["error"]["reason"] == reason


def test_every_gpu_is_listed_with_its_memory() -> None:
    listing = json.loads(run("gpus", "--json").stdout)

    found = {entry["product"]: entry["memoryBytes"] for entry in listing}
    assert found["H100-80GB-HBM3"] == Accelerator.find("H100").memory_bytes


def test_every_model_that_is_built_in_is_listed_with_its_shape() -> None:
    listing = json.loads(run("models", "--json").stdout)

    assert ModelShape.from_dict(listing["Qwen/Qwen3-8B"]) == read_shape(QWEN)


def test_a_node_says_what_it_has_and_its_memory_may_be_stated(tmp_path: Path) -> None:
    node = {"kind": "Node", "metadata": {"labels": {"nvidia.com/gpu.product": "NVIDIA-L40S"}}}
    path = tmp_path / "node.json"
    path.write_text(json.dumps(node))

    def found(*options: str) -> dict[str, Any]:
        report = json.loads(run("plan", QWEN, "--node", str(path), *options, "--json").stdout)
        accelerator: dict[str, Any] = report["plan"]["accelerator"]
        return accelerator

    assert found()["product"] == found("--memory", "40")["product"] == "L40S-48GB"
    assert found("--memory", "40")["memoryBytes"] == 40 << 30


def test_stages_stand_in_the_command() -> None:
    report = json.loads(run("plan", QWEN, "--gpu", "L4", "--pp", "2", "--json").stdout)

    assert report["command"][-2:] == ["--pipeline-parallel-size", "2"]


@pytest.mark.parametrize("module", ["kvarn", "kvarn.cli"])
def test_the_command_runs_as_a_module_too(module: str) -> None:
    command = [sys.executable, "-m", module, "plan", QWEN, "--gpu", "H200"]
    out = subprocess.run(command, capture_output=True, text=True, check=True)

    assert out.stdout == run("plan", QWEN, "--gpu", "H200").stdout
    used = subprocess.run([sys.executable, "-m", module, "-h"], capture_output=True, check=True)
    assert used.stdout.startswith(b"Usage: kvarn ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_call_the_command_back(shell: str) -> None:
    assert f"_KVARN_COMPLETE={shell}_complete" in run("completion", shell).stdout


def test_planning_imports_neither_a_model_library_nor_kubernetes() -> None:
    code = (
        "import sys, kvarn.cli; print([m for m in ('torch', 'rich', 'kopf') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert out.stdout == b"[]\n"

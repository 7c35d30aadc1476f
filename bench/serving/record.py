"""The record: an environment, and for each model and format what was measured."""

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.serving.scenario import REFERENCE
from hack.errors import Refusal

OURS = "kvarn_k4v2_g128"
BASELINE = "auto"
STEP_MODEL, STEP_MS = "llama-3.1-8b", 9.5
BURST_TIMES = {BASELINE: 2.5, "fp8": 1.8}

METHOD = {
    "cells": "Milliseconds of a step are (t(129 tokens) - t(1 token)) / 128 of requests that all "
    "wait when the engine begins and find their prompts in the cache, the best of up to four. `ms` "
    "of the cell with `ms_presumed` is of prompts that were computed; all others, and "
    "`ms_presumed`, are of prompts whose blocks were published without being computed.",
    "saturated": "As many clients as take 95 % of the cache, or max_num_seqs, each asking again "
    "when it is answered. The first requests begin at evenly spread ages, with prompt and answer "
    "so far presumed in the cache; every later prompt is computed. Tokens are counted from the "
    "end of a request to the end of another, or, where too few end, from that of a step.",
    "half_load": "Half as many clients, the first at random ages. Latencies are vLLM's own.",
}
Run = dict[str, Any]
SAME = ("device", "host", "vllm", "torch", "triton")
"""Of the environment, what figures that are compared must share. GPUs of one kind in two machines
differ by up to 5 %, as formats do."""


class Record:
    """All runs, old ones of the file and new ones.

    Attributes:
        environment: device and versions; empty before anything was measured.
        runs: one for each model and format.
    """

    def __init__(self, environment: dict[str, Any], runs: list[Run]) -> None:
        self.environment, self.runs = environment, runs

    @classmethod
    def read(cls, path: Path | None) -> "Record":
        """What a file holds; nothing without one.

        Raises:
            Refusal: it is no such record.
        """
        if path is None or not path.exists():
            return cls({}, [])
        try:
            return cls.parse(path.read_text())
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise Refusal(f"{path} is no record of this benchmark; name another file.") from error

    @classmethod
    def parse(cls, text: str) -> "Record":
        """What ``to_json`` gave."""
        given = json.loads(text)
        return cls(dict(given["environment"]), list(given["runs"]))

    def keep(self, path: Path, run: Run) -> None:
        """Write a run to a file, to which another command may write its own at the same time.

        Raises:
            Refusal: the file's figures come from another environment.
        """
        with path.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            kept = Record.parse(text) if text else Record({}, [])
            if self.environment:  # which a run that failed at once does not tell
                kept._enter(self.environment)
            _replace(kept.runs, run, ("model", "format"))
            self.environment, self.runs = kept.environment, kept.runs
            file.truncate(0)
            file.write(self.to_json())

    def run(self, model: str, cache_format: str) -> Run:
        """The run of a model and format, a fresh one if there is none."""
        for run in self.runs:
            if (run["model"], run["format"]) == (model, cache_format):
                return run
        self.runs.append({"model": model, "format": cache_format, "cells": [], "workloads": []})
        return self.runs[-1]

    def add(self, run: Run, piece: Mapping[str, Any]) -> None:
        """Take in a piece; it replaces an older one of the same cell or workload.

        Raises:
            Refusal: it comes from another environment than the rest.
        """
        figures = {name: value for name, value in piece.items() if name != "kind"}
        match piece["kind"]:
            case "environment":
                self._enter(figures)
            case "cell":
                _replace(run["cells"], figures, ("sequences", "context"))
            case "workload":
                _replace(run["workloads"], figures, ("name",))
            case kind:
                run[kind] = figures

    def _enter(self, environment: dict[str, Any]) -> None:
        for name in SAME:
            held = self.environment.get(name, "unknown")  # an old record does not name its host
            if self.environment and held != environment[name]:
                raise Refusal(
                    f"The record holds figures of {name} {held}, and this is "
                    f"{environment[name]}; write to another file with --json."
                )
        self.environment = environment

    def to_json(self) -> str:
        """The file's text, with what follows from the runs."""
        given = {
            "environment": self.environment,
            "method": METHOD,
            "runs": self.runs,
            "fastest": list(fastest(self.runs)),
            "goals": list(goals(self.runs)),
        }
        return json.dumps(given, indent=1) + "\n"


def _replace(pieces: list[dict[str, Any]], new: dict[str, Any], names: Sequence[str]) -> None:
    pieces[:] = [old for old in pieces if any(old[name] != new[name] for name in names)]
    pieces.append(new)


def fastest(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """For each model and cell, milliseconds of a step by format, and the format with the least."""
    times: dict[tuple[str, int, int], dict[str, float]] = {}
    for run in runs:
        for cell in run["cells"]:
            place = times.setdefault((run["model"], cell["context"], cell["sequences"]), {})
            if "ms" in cell:
                place[run["format"]] = cell["ms"]
    for (model, context, sequences), ms in sorted(times.items()):
        about = {"model": model, "context": context, "sequences": sequences, "ms": ms}
        yield {**about, "format": min(ms, key=lambda name: ms[name], default=None)}


def goals(runs: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """What was aimed at, what came of it, and whether that is met; None where it is not known."""
    for run in runs:
        if run["format"] != OURS:
            continue
        about = {"model": run["model"], "format": OURS}
        valid = "failed" not in run and run.get("check", {}).get("finite")
        if run["model"] == STEP_MODEL:
            ms = step_ms(run)
            met = None if ms is None else bool(valid) and ms <= STEP_MS
            yield {**about, "goal": "step_ms", "value": ms, "at_most": STEP_MS, "met": met}
        for rival, least in BURST_TIMES.items():
            times = burst_times(runs, run, rival)
            met = None if times is None else bool(valid) and times >= least
            goal = f"burst_times_{rival}"
            yield {**about, "goal": goal, "value": times, "at_least": least, "met": met}


def step_ms(run: Run) -> float | None:
    """Milliseconds of a step in the cell that the goals are about."""
    for cell in run["cells"]:
        if (cell["sequences"], cell["context"]) == (REFERENCE.sequences, REFERENCE.context):
            found: float | None = cell.get("ms")
            return found
    return None


def burst_times(runs: Sequence[Run], run: Run, rival: str) -> float | None:
    """Output tokens per second in the burst, as a multiple of another format's."""
    ours = throughput(run, "burst")
    theirs = next(
        (
            throughput(other, "burst")
            for other in runs
            if (other["model"], other["format"]) == (run["model"], rival)
        ),
        None,
    )
    return round(ours / theirs, 2) if ours and theirs else None


def throughput(run: Run, workload: str) -> float | None:
    """Output tokens per second at saturation."""
    for each in run["workloads"]:
        if each["name"] == workload and "saturated" in each:
            found: float = each["saturated"]["output_tokens_per_second"]
            return found
    return None

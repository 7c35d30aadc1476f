"""The comparison with a real server, on what one was recorded to do."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.autoscaler.calibrate import compare, fit, main, replay
from bench.autoscaler.recording import Answer, Recording
from bench.autoscaler.roofline import StepTime

RECORDED = Path(__file__).parents[2] / "bench/results/autoscaler-calibration.json"
"""vLLM 0.32 with a KVarN cache on two cores that others used as well."""
STEP = StepTime(
    fixed=0.004, weights=0.0, token=5e-5, context=0.0, pair=1e-7, sequence=0.001, prompt=0.006
)


def answer(prompt: int, output: int, first: float, gap: float) -> Answer:
    return Answer(
        arrival=0.0,
        prompt_tokens=prompt,
        output_tokens=output,
        first_token=first,
        finished=first + gap * (output - 1),
    )


def ideal() -> Recording:
    """What a server whose steps cost `STEP` would have done."""
    alone = [
        answer(p, 2, STEP.fixed + STEP.prompt + STEP.prefill_seconds(p), 0.005)
        for p in (64, 128, 256, 512)
    ]
    batches = {n: [answer(64, 64, 0.0, STEP.fixed + n * STEP.sequence)] for n in (1, 2, 4)}
    limits = {"cache_tokens": 65536, "max_model_tokens": 2048}
    return Recording(
        server=limits | {"max_sequences": 8, "max_batched_tokens": 512},
        alone=alone,
        batches=batches,
        beside={1: alone[2:3]},
        load=[answer(100, 11, 0.02, 0.006)],
    )


def test_the_costs_of_an_ideal_server_are_found_again() -> None:
    found = fit(ideal())

    assert (found.fixed, found.sequence) == (pytest.approx(0.004), pytest.approx(0.001))
    assert (found.prompt, found.token) == (pytest.approx(0.006), pytest.approx(5e-5))


def test_a_load_is_replayed_whole() -> None:
    jobs = replay(ideal(), STEP)

    assert [job.generated for job in jobs] == [11]


def test_means_of_a_real_load_are_met_within_a_quarter() -> None:
    errors = {figure.name: figure.error for figure in compare(Recording.read(RECORDED))}

    assert all(abs(error) < 0.25 for name, error in errors.items() if name.endswith("mean"))


def test_the_command_reads_a_recording() -> None:
    result = CliRunner().invoke(main, ["--records", str(RECORDED), "--json"])

    assert "time to first token, mean" in json.loads(result.stdout)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"server": 1}'])
def test_what_is_no_recording_is_refused_with_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "records.json"
    path.write_text(text)

    result = CliRunner().invoke(main, ["--records", str(path)])

    assert (result.exit_code, "no recording" in result.output) == (2, True)

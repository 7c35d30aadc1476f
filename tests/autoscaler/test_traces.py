"""Readers of traces: what comes out of small files written here."""

import io
import json
import tarfile
import time
from pathlib import Path

import pytest

from bench.autoscaler.requests import Request
from bench.autoscaler.traces import TraceError, read

AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:16:46.6805900,10,0
"""


def azure(folder: Path, text: str = AZURE) -> Path:
    path = folder / "azure.csv"
    path.write_text(text)
    return path


def servegen(folder: Path, *clients: str) -> Path:
    path = folder / "rates.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for number, text in enumerate(clients):
            member = tarfile.TarInfo(f"chunk-{number}-trace.csv")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def requests(
    path: Path, kind: str, *, hours: float = 8, rate: float | None = None, seed: int = 0
) -> list[Request]:
    return read(path, kind, hours=hours, rate=rate, seed=seed)


def test_azure_is_put_in_order_and_begins_at_zero(tmp_path: Path) -> None:
    found = requests(azure(tmp_path), "azure")

    assert [r.prompt_tokens for r in found] == [374, 396, 10]
    assert [round(r.arrival, 2) for r in found] == [0.0, 4.31, 60.0]
    assert found[-1].output_tokens == 1


def test_a_span_is_cut_off(tmp_path: Path) -> None:
    assert len(requests(azure(tmp_path), "azure", hours=0.01)) == 2


def test_mooncake_keeps_the_ids_of_its_blocks(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    row = {"timestamp": 1500, "input_length": 600, "output_length": 7, "hash_ids": [4, 5]}
    path.write_text(json.dumps(row | {"timestamp": 500}) + "\n" + json.dumps(row) + "\n")

    found = requests(path, "mooncake")

    assert (found[1].arrival, found[1].prefix) == (1.0, (4, 5))


def test_servegen_comes_at_the_rate_asked_for(tmp_path: Path) -> None:
    path = servegen(tmp_path, "0,100,1,Gamma,1,1\n600,300,1,Gamma,1,1\n")

    found = requests(path, "servegen", hours=1 / 3, rate=2.0)

    early = sum(r.arrival < 600 for r in found)
    assert len(found) == pytest.approx(2.0 * 1200, rel=0.1)
    assert early / len(found) == pytest.approx(0.25, abs=0.03)


def test_clients_come_and_go(tmp_path: Path) -> None:
    path = servegen(tmp_path, "0,1,1,Gamma,1,1\n600,0,0,,0,0\n", "600,1,1,Gamma,1,1\n")

    assert requests(path, "servegen", hours=1 / 3, rate=1.0)


def test_the_same_seed_draws_the_same(tmp_path: Path) -> None:
    path = servegen(tmp_path, "0,5,2,Gamma,1,1\n")

    first, second = (requests(path, "servegen", seed=1, rate=1.0) for _ in range(2))

    assert first == second


@pytest.mark.parametrize("kind", ["azure", "mooncake", "servegen"])
@pytest.mark.parametrize("text", ["", "nonsense\n1,2,3\n", "{}"])
def test_what_is_no_trace_is_refused_with_a_sentence(tmp_path: Path, kind: str, text: str) -> None:
    with pytest.raises(TraceError, match=r"azure\.csv"):
        requests(azure(tmp_path, text), kind)


MOONCAKE = {"timestamp": 0, "input_length": 10, "output_length": 5, "hash_ids": [1]}


@pytest.mark.parametrize("junk", [None, "x", [], {}, -1.5, 1e308, float("nan"), 10**400])
@pytest.mark.parametrize("column", MOONCAKE)
def test_a_row_of_junk_is_refused_with_its_place(tmp_path: Path, column: str, junk: object) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(MOONCAKE) + "\n" + json.dumps(MOONCAKE | {column: junk}))
    fine = {"timestamp": (-1.5, 1e308), "hash_ids": ([],)}
    if junk in fine.get(column, ()):
        assert requests(path, "mooncake")
        return

    with pytest.raises(TraceError, match=f"no mooncake trace \\(line 2(, {column})?"):
        requests(path, "mooncake")


@pytest.mark.parametrize("row", ["[]", "1", "null", "[" * 100_000])
def test_a_row_that_is_no_object_is_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(row)

    with pytest.raises(TraceError, match="line 1"):
        requests(path, "mooncake")


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("2023-11-16 18:15:46,1", "GeneratedTokens"),
        ("2023-11-16 18:15:46,-5,2", "ContextTokens"),
        ("2023-11-16 18:15:46,99999999999999999999999,2", "ContextTokens"),
        ("yesterday,1,2", "TIMESTAMP"),
    ],
)
def test_a_line_of_a_table_is_refused_with_its_place(tmp_path: Path, row: str, column: str) -> None:
    with pytest.raises(TraceError, match=f"line 5, {column}: "):
        requests(azure(tmp_path, AZURE + row + "\n"), "azure")


def test_times_with_and_without_a_zone_are_of_one_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Azure's later traces state a zone where a second has no fraction, or in every row."""
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    rows = "2023-11-16 18:15:46.500,1,1\n2023-11-16 18:15:47+00:00,1,1\n"
    try:
        found = requests(azure(tmp_path, AZURE.partition("\n")[0] + "\n" + rows), "azure")
    finally:
        monkeypatch.undo()
        time.tzset()

    assert [r.arrival for r in found] == [0.0, 0.5]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("", "no client has a window"),
        ("0,0,1\n", "no client sends anything in 1 windows"),
        ("0,1,1\n600,nan,1\n", "line 2, rate: "),
        ("0,-1,1\n", "line 1, rate: "),
        ("0,1,1e300\n", "line 1, variation: "),
        ("soon,1,1\n", "line 1, start: "),
        ("\n", "line 1, start: "),
    ],
)
def test_a_clients_table_that_will_not_do_is_refused(tmp_path: Path, table: str, why: str) -> None:
    with pytest.raises(TraceError, match=why):
        requests(servegen(tmp_path, table), "servegen")


def test_a_span_shorter_than_a_window_is_one(tmp_path: Path) -> None:
    path = servegen(tmp_path, "0,1,1\n600,1,1\n")

    assert requests(path, "servegen", hours=0.01, rate=1.0)[-1].arrival < 600


def test_an_archive_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    path = servegen(tmp_path, "0,1,1\n" * 10_000)
    path.write_bytes(path.read_bytes()[:-40])

    with pytest.raises(TraceError, match="no servegen trace"):
        requests(path, "servegen")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError):
        requests(tmp_path / "none", "azure")

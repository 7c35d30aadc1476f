"""Readers of traces: what comes out of small files written here."""

import io
import json
import tarfile
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


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError):
        requests(tmp_path / "none", "azure")

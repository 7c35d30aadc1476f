"""`python -m bench.exactness`, its engines aside."""

import pytest
import torch
from click.testing import CliRunner

from bench.exactness import process
from bench.exactness.__main__ import main
from bench.exactness.verdict import Verdict

SAME = Verdict(name="raw tiles", tokens=140, differing=0, largest=0.0, allowed=0.0)
OTHER = Verdict(name="chunks", tokens=140, differing=1, largest=0.0, allowed=0.0)


@pytest.mark.parametrize(
    ("news", "status"),
    [([("raw", SAME)], 0), ([("raw", SAME), ("deep", OTHER)], 1), ([("fast", "it ended")], 1)],
    ids=["equal", "different", "failed"],
)
def test_without_a_gpu_it_says_what_that_shows_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, news: list[tuple[str, Verdict | str]], status: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(process, "run", lambda *_, **__: (each for each in news))
    result = CliRunner().invoke(main)

    assert result.exit_code == status
    assert result.stderr.startswith("No GPU is seen: the parts run on the CPU")
    assert len(result.stderr.splitlines()) == 1 + len(news)

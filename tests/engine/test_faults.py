"""Numbers that are not finite stay in the tile that they came into, and are counted."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.engine.prompts import K4V2, PROMPTS, prompt

pytestmark = pytest.mark.serving

TOKEN = 256
"""Outside of what prompts are made of."""

FAULTY = [*prompt(170, 1), TOKEN, *prompt(199, 2)]
"""In the second tile; the third is begun by the prompt and closed by the answer."""


def test_a_token_that_is_not_finite(host: Any, tiny_model: Callable[..., str]) -> None:
    seen = host.call(
        "serve_faulty_token",
        model=tiny_model(),
        options=K4V2,
        token=TOKEN,
        prompts=PROMPTS[:3],
        faulty=FAULTY,
        tokens=40,
    )
    # Beside it, and after it, sequences go on as if it were not there.
    assert seen["beside"] == seen["without"]
    assert seen["answers"][0] == seen["answers"][1]
    assert TOKEN not in seen["answers"][1]
    # It takes its own tile with it, where it counts as zero, and no other.
    for layer in seen["layers"]:
        assert layer["computed"] == [True, False, True]
        assert layer["stored"] == [True, True, True]
        assert min(layer["pages"]) > 0
    # Each such number is counted, and a line of the log says so.
    assert seen["counted"] == seen["computed"] > 0
    assert f"{seen['told']} keys and values were not finite" in host.log

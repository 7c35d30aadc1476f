"""vLLM's own parser: what it takes for a flag that the operator plans, ``engine.args`` must not."""

import json
import subprocess
import sys

import pytest

from kvarn_operator.api.spec import PLANNED_FLAGS
from tests.engine.lanes import host_environment

SPELLINGS = """
import json
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
print(json.dumps([action.option_strings for action in parser._actions]))
"""


def options(release: str) -> list[list[str]]:
    """Names of each option of a release."""
    answer = subprocess.run(
        [sys.executable, "-c", SPELLINGS],
        env=host_environment(release),
        stdout=subprocess.PIPE,
        check=True,
    )
    found: list[list[str]] = json.loads(answer.stdout.splitlines()[-1])
    return found


@pytest.mark.serving
def test_each_name_of_a_planned_flag_is_planned_and_no_other_option_is_refused(
    release: str,
) -> None:
    """The API server refuses whatever begins a planned flag, as the parser takes that for it."""
    names = options(release)
    planned = [each for each in names if set(each) & set(PLANNED_FLAGS)]
    others = [name for each in names for name in each if each not in planned]

    assert len(planned) >= 8
    assert {name for each in planned for name in each} <= set(PLANNED_FLAGS)
    assert not [name for name in others if any(flag.startswith(name) for flag in PLANNED_FLAGS)]

"""Print a model's shape as JSON: `python3 -m kvarn.planner.inspect SOURCE`.

The operator runs it in a short-lived Job beside the model's volume, and reads what it writes to
the container's termination message.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from kvarn.planner.errors import PlannerError
from kvarn.planner.source import find_shape

MESSAGE_VARIABLE = "KVARN_TERMINATION_MESSAGE_PATH"
MESSAGE_PATH = "/dev/termination-log"


def main(arguments: Sequence[str]) -> int:
    """Print the shape of the source, or the reason why it has none; 0 or 1."""
    if len(arguments) != 1:
        print("usage: python3 -m kvarn.planner.inspect SOURCE", file=sys.stderr)
        return 2
    try:
        report: dict[str, object] = find_shape(arguments[0]).to_dict()
        code = 0
    except PlannerError as error:
        report, code = dict(error.to_dict()), 1
    text = json.dumps(report)
    print(text)
    _leave_message(text)
    return code


def _leave_message(text: str) -> None:
    path = Path(os.environ.get(MESSAGE_VARIABLE, MESSAGE_PATH))
    if path.exists():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

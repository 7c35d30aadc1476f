"""vLLM's OpenAI server, as the launcher starts it.

On a CPU, vLLM spawns its engine and inspects the model in processes that import everything again.
Neither is needed there: a process that has imported vLLM and touched no device can be forked.
"""

import multiprocessing
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from vllm.platforms import current_platform
from vllm.version import __version__ as vllm_version

from kvarn.engine.errors import UnsupportedError
from kvarn.engine.versions import why_unsupported
from kvarn.format.layout import FORMATS


def main() -> None:
    """Serve until told to stop; options as of ``vllm serve``."""
    _check_version(sys.argv)
    if current_platform.is_cpu():
        _fork_instead_of_spawning()
    import_module("vllm.entrypoints.launchers.api_server.entry").main()


def _check_version(arguments: list[str]) -> None:
    """The plugin leaves an unknown vLLM alone; asked for a format, say why."""
    reason = why_unsupported(vllm_version)
    if reason and any(name in argument for argument in arguments for name in FORMATS):
        raise UnsupportedError(reason)


def _fork_instead_of_spawning() -> None:
    import_module("vllm.v1.worker.cpu_worker")
    engines: Any = import_module("vllm.v1.engine.utils")
    engines.get_mp_context = partial(multiprocessing.get_context, "fork")
    registry: Any = import_module("vllm.model_executor.models.registry")
    registry._run_in_subprocess = _run_here


def _run_here(work: Callable[[], Any]) -> Any:
    return work()


if __name__ == "__main__":
    main()

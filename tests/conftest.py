"""Without a GPU, kernels run in Triton's interpreter: to be said before it is imported."""

from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRITON_INTERPRET", "1")
        import triton
    triton.knobs.propagate_env = False  # programs that tests start decide for themselves
    triton.knobs.runtime.interpret = True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which worker runs what, where there are several."""
    from tests.support.sharing import Sharing

    return Sharing(config, log)

"""Without a GPU, kernels run in Triton's interpreter: to be said before it is imported."""

import pytest
import torch

if not torch.cuda.is_available():
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRITON_INTERPRET", "1")
        import triton
    triton.knobs.propagate_env = False  # programs that tests start decide for themselves
    triton.knobs.runtime.interpret = True

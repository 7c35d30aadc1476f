"""A model's layers without its weights: what a backend refuses shows when they are made."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from typing_extensions import override
from vllm.config import ParallelConfig, VllmConfig, set_current_vllm_config
from vllm.distributed import parallel_state
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.utils.torch_utils import set_default_torch_dtype

from kvarn.engine.layers import check_layers


def make_layers(config: VllmConfig) -> None:
    """Make them as one process would that has the model to itself, taking no memory for weights.

    Raises:
        UnsupportedError: a layer needs what the cache cannot do.
        Exception: whatever else vLLM or the model raises.
    """
    alone = copy(config)
    alone.parallel_config = ParallelConfig()
    with (
        set_current_vllm_config(alone),
        _process_group(),
        set_default_torch_dtype(alone.model_config.dtype),
        _Unallocated(),
    ):
        initialize_model(alone)
    check_layers(alone)


class _Unallocated(TorchFunctionMode):
    """Tensors without values, which weights are before they are loaded, lie on no device.

    Those with values stay: models compute with some of them, such as the slopes of ALiBi.
    """

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.empty:
            return func(*args, **(kwargs or {}) | {"device": "meta"})
        return func(*args, **(kwargs or {}))


@contextmanager
def _process_group() -> Iterator[None]:
    """The groups of processes that layers ask for their share, of this process alone."""
    with TemporaryDirectory() as folder:
        store = (Path(folder) / "store").as_uri()
        parallel_state.init_distributed_environment(1, 0, store, 0, "gloo")
        try:
            parallel_state.initialize_model_parallel(backend="gloo")
            yield
        finally:
            parallel_state.destroy_model_parallel()
            parallel_state.destroy_distributed_environment()

"""What kernels take on GPUs that are not there.

A child process launches them on the host's tensors, exactly as they are launched on a GPU's. Its
driver for Triton compiles for the GPU that is asked about, looks into the binary and runs nothing.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from tests.kernels.releases import INSTALLED, compile_with, folder

SHARED_BYTES: Mapping[int, int] = {
    80: 166_912,
    86: 101_376,
    89: 101_376,
    90: 232_448,
    100: 232_448,
    120: 101_376,
}
"""Shared memory that a program can have, by compute capability."""


@dataclass(frozen=True)
class Binary:
    """A kernel as it was compiled.

    Attributes:
        name: of its function.
        registers: of a thread.
        stack_bytes: of a thread, which is where registers are spilled to.
        instructions: in the whole binary.
    """

    name: str
    registers: int
    stack_bytes: int
    instructions: int


def binaries(
    capability: int, launch: Callable[..., None], *args: object, **kwargs: object
) -> list[Binary]:
    """Compile what a function launches, in the order in which it does.

    Args:
        capability: compute capability of the GPU, one of :data:`SHARED_BYTES`.
        launch: a function of a module, called in another process.
        args: of the function.
        kwargs: of the function.

    Raises:
        triton.OutOfResources: a kernel needs more than the GPU has.
    """
    return compiling(INSTALLED, capability, launch, *args, **kwargs).result()


def compiling(
    release: str, capability: int, launch: Callable[..., None], *args: object, **kwargs: object
) -> Future[list[Binary]]:
    """The same by a release of Triton, as soon as its process comes to it.

    Args:
        release: one of :mod:`tests.kernels.releases`.
        capability: compute capability of the GPU.
        launch: a function of a module.
        args: of the function.
        kwargs: of the function.
    """
    return _compiler(release).submit(_launched, capability, launch, args, kwargs)


@cache
def _compiler(release: str) -> ProcessPoolExecutor:
    # Which Triton it is, and whether it interprets kernels, is decided once per process.
    return ProcessPoolExecutor(
        1, get_context("spawn"), initializer=compile_with, initargs=(folder(release),)
    )


def _launched(
    capability: int, launch: Callable[..., None], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> list[Binary]:
    driver = _driver(capability)
    triton.runtime.driver.set_active(driver)
    driver.launched.clear()
    launch(*args, **kwargs)
    return driver.launched


@cache
def _driver(capability: int) -> "_Driver":
    return _Driver(capability)


class _Driver(DriverBase):
    """A GPU that takes binaries and runs none."""

    def __init__(self, capability: int) -> None:
        self.capability = capability
        self.launched: list[Binary] = []
        self.utils = SimpleNamespace(
            load_binary=self._load,
            get_device_properties=lambda device: {"max_shared_mem": SHARED_BYTES[device]},
        )

    @classmethod
    def is_active(cls) -> bool:
        return True

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_active_torch_device(self) -> Any:
        raise NotImplementedError

    def get_benchmarker(self) -> Any:
        raise NotImplementedError

    def get_current_device(self) -> int:
        # Triton keeps the kernels of each device apart.
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def launcher_cls(self, source: object, metadata: object) -> Callable[..., None]:
        def launch(*args: Any) -> None:
            function = args[4]  # after the grid and the stream
            self.launched.append(function)

        return launch

    def _load(
        self, name: str, binary: bytes, shared_bytes: int, device: int
    ) -> tuple[str, Binary, int, int, int]:
        function = look_into(name, binary)
        return name, function, function.registers, function.stack_bytes, 1024


def look_into(name: str, binary: bytes) -> Binary:
    """One of the kernels in a binary."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage, code = (_dump(option, name, file.name) for option in ("-res-usage", "-sass"))
    of_kernel = usage[usage.index(f"Function {name}:") :]
    registers, stack = (int(re.findall(rf"{of}:(\d+)", of_kernel)[0]) for of in ("REG", "STACK"))
    instructions = len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/ ", code, re.MULTILINE))
    return Binary(name, registers, stack, instructions)


def _dump(option: str, name: str, path: str) -> str:
    command = [triton.knobs.nvidia.cuobjdump.path, option, "-fun", name, path]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

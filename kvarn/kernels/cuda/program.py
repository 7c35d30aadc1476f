"""A compiled program on a device."""

import ctypes
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch

from kvarn.kernels.cuda.source import FOLDER, MAIN, Variant

logger = logging.getLogger(__name__)

OLDEST = (9, 0)
"""Compute capability of the first GPUs with bulk copies."""

JOIN_WARPS = 8
"""Warps of a block of `combine`."""


class ProgramError(RuntimeError):
    """The compiler or the driver refuses a program; nothing of it runs."""


class Program(Protocol):
    """Kernels that can be launched."""

    @property
    def blocks(self) -> int:
        """Blocks of `attend` that the device runs side by side."""

    @property
    def partners(self) -> int:
        """Warps of each of them."""

    def attend(self, arguments: ctypes.Structure) -> None:
        """Launch `attend`."""

    def combine(self, arguments: ctypes.Structure, blocks: int) -> None:
        """Launch `combine`."""


@dataclass(frozen=True)
class _Loaded:
    device: torch.device
    blocks: int
    partners: int
    shared_bytes: int
    functions: dict[str, Any]

    def attend(self, arguments: ctypes.Structure) -> None:
        self._launch("attend", arguments, self.blocks, 32 * self.partners, self.shared_bytes)

    def combine(self, arguments: ctypes.Structure, blocks: int) -> None:
        self._launch("combine", arguments, blocks, 32 * JOIN_WARPS, 0)

    def _launch(
        self,
        name: str,
        arguments: ctypes.Structure,
        blocks: int,
        threads: int,
        shared_bytes: int,
    ) -> None:
        launch_function(
            self.functions[name],
            arguments,
            device=self.device,
            grid=(blocks, 1),
            threads=threads,
            shared_bytes=shared_bytes,
        )


def launch_function(
    function: Any,
    arguments: ctypes.Structure,
    *,
    device: torch.device,
    grid: tuple[int, int],
    threads: int,
    shared_bytes: int,
) -> None:
    """Launch a kernel, which may begin while the one before still runs."""
    from cuda.bindings import driver  # noqa: PLC0415

    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = *grid, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = threads, 1, 1
    config.sharedMemBytes = shared_bytes
    config.hStream = torch.cuda.current_stream(device).cuda_stream
    early = driver.CUlaunchAttribute()
    early.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    early.value.programmaticStreamSerializationAllowed = 1
    config.attrs, config.numAttrs = [early], 1
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
    (result,) = driver.cuLaunchKernelEx(config, function, ctypes.addressof(pointers), 0)
    if result.value:
        raise RuntimeError(f"CUDA refuses a launch: {result.name}")


def load_functions(
    binary: bytes, shared_bytes: Mapping[str, int], device: torch.device
) -> dict[str, Any]:
    """Kernels of a binary on a device.

    Args:
        binary: of one program.
        shared_bytes: by the kernel's name, dynamic shared memory that it must be allowed.
        device: where they are loaded.

    Raises:
        ProgramError: the driver refuses it.
    """
    from cuda.bindings import driver  # noqa: PLC0415

    limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    functions = {}
    with torch.cuda.device(device):
        torch.cuda.current_stream()  # the context that the module is loaded into
        (module,) = _checked(driver.cuModuleLoadData(binary))
        for name, size in shared_bytes.items():
            (functions[name],) = _checked(driver.cuModuleGetFunction(module, name.encode()))
            if size:
                _checked(driver.cuFuncSetAttribute(functions[name], limit, size))
    return functions


def is_known(capability: tuple[int, int]) -> bool:
    """Whether there is a compiler that makes binaries for a GPU of this capability.

    If not, a warning says why.
    """
    try:
        from cuda.bindings import driver, nvrtc  # noqa: F401, PLC0415

        (known,) = _checked(nvrtc.nvrtcGetSupportedArchs())
    except Exception as error:  # whatever it is, Triton's kernels compute without
        _warn(f"{type(error).__name__}: {error}")
        return False
    major, minor = capability
    if 10 * major + minor not in known:
        _warn(f"NVRTC does not know GPUs of compute capability {major}.{minor}")
        return False
    return True


@dataclass
class Operation:
    """An operation that says that it did nothing, from the first program on that is refused.

    A warning says why.

    Attributes:
        work: what says whether it did anything.
        has_worked: whether it ever did; None before the first call.
    """

    work: Callable[..., bool]
    has_worked: bool | None = None
    _is_refused: bool = False

    def __call__(self, *arguments: Any, **options: Any) -> bool:
        """Do it, or nothing."""
        done = False
        if not self._is_refused:
            try:
                done = self.work(*arguments, **options)
            except ProgramError as error:
                self._is_refused = True
                _warn(str(error))
        self.has_worked = self.has_worked or done
        return done


def _warn(reason: str) -> None:
    logger.warning("Kernels in Triton take the place of those in CUDA C++: %s", reason)


@cache
def load(variant: Variant, device: torch.device) -> Program:
    """Compile a program for a device and load it there.

    Raises:
        ProgramError: the compiler or the driver refuses it.
    """
    from cuda.bindings import driver  # noqa: PLC0415

    properties = torch.cuda.get_device_properties(device)
    binary = compiled(variant, f"sm_{properties.major}{properties.minor}")
    functions = load_functions(binary, {"attend": variant.shared_bytes, "combine": 0}, device)
    with torch.cuda.device(device):
        (resident,) = _checked(
            driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(
                functions["attend"], 32 * variant.partners, variant.shared_bytes
            )
        )
    blocks = properties.multi_processor_count * min(resident, variant.resident)
    return _Loaded(device, blocks, variant.partners, variant.shared_bytes, functions)


def compiled(variant: Variant, architecture: str) -> bytes:
    """The binary of a program; see :func:`binary_of`."""
    return binary_of(MAIN, variant.constants, architecture)


def binary_of(main: str, constants: Mapping[str, int | str], architecture: str) -> bytes:
    """The binary of a source file, for a GPU that need not be there.

    Args:
        main: the file, in :data:`FOLDER`.
        constants: preprocessor definitions.
        architecture: such as ``sm_90``.

    Raises:
        ProgramError: what the compiler says.
    """
    from cuda.bindings import nvrtc  # noqa: PLC0415

    headers = sorted(FOLDER.glob("*.cuh"))
    (program,) = _checked(
        nvrtc.nvrtcCreateProgram(
            (FOLDER / main).read_bytes(),
            main.encode(),
            len(headers),
            [header.read_bytes() for header in headers],
            [header.name.encode() for header in headers],
        )
    )
    options = [
        *(f"-D{name}={value}" for name, value in constants.items()),
        f"--gpu-architecture={architecture}",
        "--std=c++17",
        "--use_fast_math",
        "--device-as-default-execution-space",
    ]
    result, *_ = nvrtc.nvrtcCompileProgram(
        program, len(options), [option.encode() for option in options]
    )
    if result != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        (size,) = _checked(nvrtc.nvrtcGetProgramLogSize(program))
        log = b" " * size
        _checked(nvrtc.nvrtcGetProgramLog(program, log))
        raise ProgramError(f"NVRTC does not compile {main} for {architecture}: {log.decode()}")
    (size,) = _checked(nvrtc.nvrtcGetCUBINSize(program))
    binary = b" " * size
    _checked(nvrtc.nvrtcGetCUBIN(program, binary))
    return bytes(binary)


def _checked(answer: tuple[Any, ...]) -> Sequence[Any]:
    result, *values = answer
    if result.value:
        raise ProgramError(f"CUDA refuses a call: {result.name}")
    return values

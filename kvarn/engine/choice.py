"""The device of this process, and the kernels that were chosen for it, once."""

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from vllm import envs
from vllm.logger import init_logger
from vllm.platforms import current_platform

from kvarn.engine.flash import flash_attention
from kvarn.engine.hardware import Device
from kvarn.kernels.select import Kernels, kernels_for

logger = init_logger("vllm.kvarn")  # only loggers below vLLM's have a handler


def this_device() -> Device:
    """What this process computes on; no device is touched for that."""
    capability = current_platform.get_device_capability()
    return Device(
        name=current_platform.device_name,
        capability=capability and (capability.major, capability.minor),
        triton=_triton(),
    )


@cache
def kernels() -> Kernels:
    """The kernels of this process."""
    invariant = bool(envs.VLLM_BATCH_INVARIANT)
    return kernels_for(
        current_platform.device_type, batch_invariant=invariant, prompts=flash_attention
    )


def described() -> str:
    """The kernels of this process, for people."""
    graphs = "single tokens in CUDA graphs" if kernels().captures else "outside of CUDA graphs"
    return f"{kernels().describe()}, {graphs}"


def announce(cache_format: str) -> None:
    """Say in the log, once, which kernels serve a format, and what is not known of the GPU."""
    logger.info_once("%s is stored and attended by kernels in %s.", cache_format, described())
    if reason := this_device().why_generic():
        logger.warning_once("%s.", reason)


def _triton() -> str | None:
    try:
        return version("triton")
    except PackageNotFoundError:
        return None

"""Tells of numbers that are not finite and came into tiles, where they count as zero."""

from functools import cache

import torch
from vllm.logger import init_logger

logger = init_logger("vllm.kvarn")  # only loggers below vLLM's have a handler

LOOK_EVERY_STEPS = 256


class Faults:
    """A device's count, and when it was last looked at.

    Attributes:
        count: int64 ``[1]`` on the device; the kernels add to it.
    """

    def __init__(self, device: torch.device) -> None:
        self.count = torch.zeros(1, dtype=torch.int64, device=device)
        self._seen = torch.zeros(1, dtype=torch.int64, pin_memory=device.type == "cuda")
        self._told = 0
        self._steps = 0

    def look(self) -> None:
        """Count a step; now and then, warn if there are more than last time.

        The device is not waited for: what is read is the copy that was asked for a while ago.
        """
        self._steps += 1
        if self._steps % LOOK_EVERY_STEPS:
            return
        number = int(self._seen)
        if number > self._told:
            logger.warning(
                "%d keys and values were not finite and count as zero in the cache (%d since the "
                "last such line): the model or its weights are at fault.",
                number,
                number - self._told,
            )
            self._told = number
        self._seen.copy_(self.count, non_blocking=True)


@cache
def faults_on(device: torch.device) -> Faults:
    """The device's count."""
    return Faults(device)

"""Whether vLLM's own checks let devices share a width whose groups have 128 numbers, as JSON.

Reads [[width, devices], …]; writes, of each kind of MLP and quantisation, [kind, name, [true, …]].
A program of its own, because importing vLLM warns.
"""

import json
import sys
from collections.abc import Callable
from types import SimpleNamespace

import vllm.distributed
from vllm.distributed.utils import divide, verify_group_size_divides_partition
from vllm.model_executor.layers.fused_moe.oracle.fp8 import refine_fp8_moe_block_shape
from vllm.model_executor.layers.quantization.utils.fp8_utils import (
    validate_fp8_block_shape,
    validate_fp8_block_shape_moe,
)

BLOCK = [128, 128]
HIDDEN = 4096


def routed_in_blocks(width: int, count: int) -> None:
    """As `Fp8MoEMethod` asks."""
    share = divide(width, count)
    config = SimpleNamespace(
        intermediate_size_per_partition=share, tp_size=count, hidden_dim=HIDDEN
    )
    if refine_fp8_moe_block_shape(config, BLOCK) is None:
        validate_fp8_block_shape_moe(share, BLOCK)


def linear_in_blocks(width: int, count: int) -> None:
    """As `Fp8LinearMethod` asks for the matrix that leaves an MLP."""
    layer = SimpleNamespace()
    validate_fp8_block_shape(layer, width, HIDDEN, divide(width, count), [HIDDEN], BLOCK)


def packed(width: int, count: int) -> None:
    """As `CompressedTensorsWNA16` asks, and `CompressedTensorsWNA16MoEMethod` likewise."""
    verify_group_size_divides_partition(divide(width, count), BLOCK[0])


CHECKS: dict[tuple[str, str], Callable[[int, int], None]] = {
    ("routed", "fp8"): routed_in_blocks,
    ("shared", "fp8"): linear_in_blocks,
    ("routed", "compressed-tensors"): packed,
    ("shared", "compressed-tensors"): packed,
}


def starts(check: Callable[[int, int], None], width: int, count: int) -> bool:
    """Whether the check passes where the group has so many devices."""
    vllm.distributed.get_tensor_model_parallel_world_size = lambda: count
    try:
        check(width, count)
    except (AssertionError, ValueError):
        return False
    return True


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    found = [
        (kind, how, [starts(check, width, count) for width, count in asked])
        for (kind, how), check in CHECKS.items()
    ]
    print(json.dumps(found))

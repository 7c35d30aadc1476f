"""What this vLLM, this machine and a model will do with the cache, on one screen.

    python -m kvarn.engine.check --model Qwen/Qwen3-8B [--kv-cache-dtype …] [options of vllm serve]

Makes the model's layers and loads no weights; whether they fit is for ``kvarn plan`` to say. Ends
with status 1 when vLLM would refuse to start, or when that cannot be told.
"""

import sys
from argparse import Namespace
from collections.abc import Iterator
from textwrap import shorten

import torch
import vllm
from pydantic import ValidationError
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform
from vllm.utils.argparse_utils import FlexibleArgumentParser

import kvarn
from kvarn.engine.choice import described, this_device
from kvarn.engine.construction import make_layers
from kvarn.engine.errors import UnsupportedError
from kvarn.engine.plugin import register
from kvarn.engine.skipping import skipped_layers, spans
from kvarn.engine.versions import why_unsupported
from kvarn.format.layout import FORMATS, TileLayout, tail_bytes
from kvarn.format.releases import SUPPORTED

DEFAULT_FORMAT = "kvarn_k4v2_g128"


def main(options: list[str]) -> int:
    """Print the screen.

    Args:
        options: those of ``vllm serve``.

    Returns:
        1 when vLLM would refuse to start or that cannot be told, else 0.
    """
    register()  # vLLM 0.32 makes the parser before it loads plugins, and would refuse our formats
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser(description=__doc__))
    parser.set_defaults(model=None, kv_cache_dtype=DEFAULT_FORMAT, log_level="ERROR")
    arguments = parser.parse_args(options)
    _show(_versions())
    try:
        return _answer(arguments)
    except UnsupportedError as error:
        return _verdict(f"refused: {error}", 1)


def _answer(arguments: Namespace) -> int:
    if reason := why_unsupported(vllm.__version__):
        raise UnsupportedError(reason)
    if arguments.kv_cache_dtype in FORMATS and (reason := this_device().why_unsupported()):
        raise UnsupportedError(f"{arguments.kv_cache_dtype} {reason}.")
    if arguments.model is None:
        return _verdict("give --model to see what it will do")
    try:
        config = EngineArgs.from_cli_args(arguments).create_engine_config()
    except (ValidationError, ValueError, OSError) as error:
        raise UnsupportedError(str(error)) from error
    _show(_model(config))
    try:
        make_layers(config)
    except UnsupportedError:
        raise
    except Exception as error:  # whatever it is, it leaves the question open
        said = shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")
        return _verdict(f"not known: the layers cannot be made without weights ({said})", 1)
    return _verdict("vLLM will start with this cache")


def _versions() -> Iterator[tuple[str, str]]:
    yield "kvarn", kvarn.__version__
    yield "vLLM", f"{vllm.__version__} (supported: {', '.join(SUPPORTED)})"
    yield "torch", torch.__version__
    yield "device", f"{current_platform.get_device_name()} ({this_device()})"


def _model(config: VllmConfig) -> Iterator[tuple[str, str]]:
    model, parallel = config.model_config, config.parallel_config
    heads, head_dim = model.get_num_kv_heads(parallel), model.get_head_size()
    yield "model", f"{model.model}, {model.architecture}, {model.dtype}".replace("torch.", "")
    yield "KV heads", f"{heads} of {head_dim} channels on each device"
    if tile_format := FORMATS.get(config.cache_config.cache_dtype):
        layout = TileLayout(tile_format, head_dim)
        open_bytes = tail_bytes(
            kv_heads=heads, head_dim=head_dim, element_bytes=model.dtype.itemsize
        )
        yield "format", f"{tile_format.name}, {layout.bits_per_element:.2f} bits a number"
        yield "token", f"{heads * layout.bytes_per_token:,} bytes in each layer"
        yield "open tile", f"{open_bytes:,} bytes of each sequence in each layer"
    if skipped := skipped_layers(config):
        yield "left out", f"layers {spans(skipped)}: kept in the model's precision"
    if tile_format:
        yield "kernels", described()


def _show(lines: Iterator[tuple[str, str]]) -> None:
    for name, text in lines:
        print(f"{name:<10} {text}")


def _verdict(text: str, status: int = 0) -> int:
    print(f"{'verdict':<10} {text}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

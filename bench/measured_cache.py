"""Start vLLM with the arguments of `vllm serve` and print what it reports of its cache, as JSON."""

import json
import sys

from vllm import LLM
from vllm.engine.arg_utils import EngineArgs
from vllm.plugins import load_general_plugins
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main(arguments: list[str]) -> None:
    """Start the engine and print the report as the last line."""
    load_general_plugins()
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    engine = LLM.from_engine_args(EngineArgs.from_cli_args(parser.parse_args(arguments)))
    cache = engine.llm_engine.vllm_config.cache_config
    report = {
        "tokens": cache.kv_cache_size_tokens,
        "concurrency": cache.kv_cache_max_concurrency,
        "blocks": cache.num_gpu_blocks,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1:])

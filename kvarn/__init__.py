"""KVarN: a KV cache of 4-bit keys and 2-bit values for vLLM, and the planner that sizes it."""

__version__ = "0.1.0"

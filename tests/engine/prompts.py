"""What the engines are asked, in which caches."""

import random

K4V2 = {"kv_cache_dtype": "kvarn_k4v2_g128"}
RAW = {"kv_cache_dtype": "kvarn_raw_g128"}


def prompt(length: int, seed: int) -> list[int]:
    """Random tokens; equal arguments give equal ones."""
    return random.Random(seed).choices(range(256), k=length)


PROMPTS = [prompt(length, length) for length in (350, 400, 512, 640, 700, 898)]
"""Their answers of 40 tokens close a tile, open one, or go on in one."""

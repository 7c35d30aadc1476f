"""Which releases of vLLM the cache is made for."""

SUPPORTED = ("0.32", "0.33")
"""Each as ``major.minor``, ascending."""
